"""scim2-tester, as it comes, against the interface at the address that is given.

Usage: check.py ADDRESS CA_FILE ACCESS_TOKEN. The last line says how many checks there were.
"""

import ssl
import sys

from httpx2 import Client
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import check_server

address, ca_file, token = sys.argv[1:]
http = Client(
    base_url=address,
    verify=ssl.create_default_context(cafile=ca_file),
    headers={"Authorization": f"Bearer {token}"},
    timeout=30,
)
results = check_server(SyncSCIMClient(http))
bad = [result for result in results if result.status.name in ("ERROR", "CRITICAL", "DEVIATION")]
for result in bad:
    print(result.status.name, result.title, result.reason, sep=" | ")
print(len(results), "checks")
sys.exit(1 if bad or not results else 0)
