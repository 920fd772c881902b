//! People of an LDAP directory, in front of a real one: Debian's `slapd`, which `./test.sh` installs. `TESTUDO_TEST_FAST=1` leaves
//! these tests out.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    browser::{Browser, code_form, query_of, token},
    fleet::{Process, free_ports},
    installed::{left_out, tool},
    own_certificate::Files,
    roles::eventually,
    shop::{Shop, claims_of, password},
    token_story::{activities, explained},
    wire::Answer,
};

const SUFFIX: &str = "dc=corp,dc=example";
const ADMIN: &str = "cn=admin,dc=corp,dc=example";
const SECRET: &str = "the-directory-administrator";
/// People beside those with a name, so that there is more than a page of them.
const CROWD: usize = 25;

/// A running directory.
struct Slapd {
    folder: TempDir,
    files: Files,
    /// StartTLS, and without TLS.
    plain: u16,
    /// TLS from the first byte.
    tls: u16,
    _process: Process,
}

impl Slapd {
    /// Starts it with people and groups; `with_tls` unless it is to know nothing of StartTLS. `elsewhere` is where it says that
    /// others are to be asked.
    fn start(with_tls: bool, elsewhere: u16) -> Self {
        let folder = TempDir::new().unwrap();
        let files = Files::new(folder.path());
        files.renew();
        let [plain, tls] = free_ports();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(folder.path().join("data")).unwrap();
        let certificates = match with_tls {
            true => format!(
                "TLSCertificateFile {}\nTLSCertificateKeyFile {}\n",
                files.chain.display(),
                files.key.display()
            ),
            false => String::new(),
        };
        let configuration = format!(
            r#"include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {}
{certificates}
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=testudo,{SUFFIX}" read by anonymous auth by * none
database mdb
maxsize 16777216
suffix "{SUFFIX}"
rootdn "{ADMIN}"
rootpw {SECRET}
directory {}
limits * size.soft=12 size.hard=12 size.pr=10 size.prtotal=unlimited
"#,
            path("pid"),
            path("data"),
        );
        fs::write(path("slapd.conf"), configuration).unwrap();
        fs::write(path("people.ldif"), people(elsewhere)).unwrap();
        let slapd = tool(&["/usr/sbin/slapd"]);
        let added = Command::new(tool(&["/usr/sbin/slapadd"]))
            .args(["-f", &path("slapd.conf"), "-l", &path("people.ldif")])
            .output()
            .unwrap();
        assert!(added.status.success(), "{added:?}");
        let listen = match with_tls {
            true => format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}"),
            false => format!("ldap://127.0.0.1:{plain}"),
        };
        let child = Command::new(slapd)
            .args(["-f", &path("slapd.conf"), "-h", &listen, "-d", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        eventually("slapd listens", || {
            TcpStream::connect(("127.0.0.1", plain)).is_ok()
        });
        Self {
            files,
            plain,
            tls,
            _process: process,
            folder,
        }
    }

    /// Changes it, in LDIF.
    fn change(&self, ldif: &str) {
        let path = self.folder.path().join("change.ldif");
        fs::write(&path, ldif).unwrap();
        let changed = Command::new(tool(&["/usr/bin/ldapmodify"]))
            .args(["-x", "-H", &format!("ldap://127.0.0.1:{}", self.plain)])
            .args(["-D", ADMIN, "-w", SECRET, "-f"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(changed.status.success(), "{changed:?}");
    }
}

fn people(elsewhere: u16) -> String {
    let person = |uid: &str, more: &str| {
        format!(
            "dn: uid={uid},ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid} of Corp\nsn: Corp\n\
             mail: {uid}@corp.example\nuserPassword: {}\n{more}\n",
            password(uid)
        )
    };
    let group = |name: &str, member: &str| {
        format!(
            "dn: cn={name},ou=groups,{SUFFIX}\nobjectClass: groupOfNames\ncn: {name}\nmember: uid={member},ou=people,{SUFFIX}\n\n"
        )
    };
    let mut all = format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\no: Corp\ndc: corp\n\n\
         dn: ou=people,{SUFFIX}\nobjectClass: organizationalUnit\nou: people\n\n\
         dn: ou=groups,{SUFFIX}\nobjectClass: organizationalUnit\nou: groups\n\n\
         dn: cn=testudo,{SUFFIX}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: testudo\n\
         userPassword: {}\n\n\
         dn: ou=branch,ou=people,{SUFFIX}\nobjectClass: referral\nobjectClass: extensibleObject\nou: branch\n\
         ref: ldap://127.0.0.1:{elsewhere}/ou=branch,ou=people,{SUFFIX}\n\n",
        password("help-desk")
    );
    all += &person("carol", "");
    all += &person("dave", "");
    // The name of somebody who is not theirs, with another password.
    all += &person("alice", "").replace(&password("alice"), "the-alice-of-the-directory");
    all += &group("Shop-Staff", "carol");
    all += &group("shop-buyers", "dave");
    all += &group("others", "carol");
    all.extend((0..CROWD).map(|number| person(&format!("crowd-{number:02}"), "")));
    all
}

/// A shop whose people may be in the directory.
struct Town {
    shop: Shop,
    /// The fleet file without directories.
    file: String,
}

impl Town {
    fn open() -> Self {
        let shop = Shop::open("");
        let file = fs::read_to_string(shop.fleet.folder.fleet_file()).unwrap();
        let file = file.replace("[groups]\n", "[groups]\nstaff = []\nbuyers = []\n");
        Self { shop, file }
    }

    /// From now on there is one directory like this.
    fn declare(&self, url: &str, ca: Option<&PathBuf>, more: &str) {
        let ca = ca.map_or_else(String::new, |ca| {
            format!("ca_file = \"{}\"\n", ca.display())
        });
        let section = format!(
            r#"
[directories.corp]
url = "{url}"
{ca}bind_dn = "cn=testudo,{SUFFIX}"
bind_password = {{ file = "passwords/help-desk" }}
base = "ou=people,{SUFFIX}"
user_filter = "(&(objectClass=inetOrgPerson)(uid={{username}}))"
trust_email = true
timeout = "2s"
page_size = 10
{more}
[directories.corp.groups]
base = "ou=groups,{SUFFIX}"
map = {{ shop-staff = ["staff"], "SHOP-BUYERS" = ["buyers"] }}
"#
        );
        let folder = &self.shop.fleet.folder;
        fs::write(folder.fleet_file(), format!("{}{section}", self.file)).unwrap();
        folder.run(&["apply", "fleet.toml"]);
    }

    fn log_in(&self, username: &str, password: &str) -> Answer {
        let mut browser = Browser::new(&self.shop);
        let flow = browser.open_login();
        let form = [
            ("flow", &*flow),
            ("username", username),
            ("password", password),
        ];
        browser.post("/login", &form)
    }

    /// The access token of a login.
    fn token(&self, username: &str, password: &str) -> String {
        let answer = self.log_in(username, password);
        assert_eq!(answer.status, 303, "{answer:?}");
        let code = query_of(answer.header("location").unwrap())["code"].clone();
        let answer = token(&self.shop, &code_form(&code));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    fn user(&self, username: &str) -> Value {
        let folder = &self.shop.fleet.folder;
        serde_json::from_str(&folder.run(&["user", "show", username, "--output", "json"])).unwrap()
    }

    fn is_known(&self, username: &str) -> bool {
        let shown = self.shop.fleet.folder.testudo(&["user", "show", username]);
        shown.status.success()
    }

    /// Why the last login by a directory was refused.
    fn reason(&self) -> String {
        let search = [
            "audit",
            "search",
            "activity=login.directory",
            "outcome=denied",
            "--output",
            "json",
        ];
        let folder = &self.shop.fleet.folder;
        let mut found = String::new();
        eventually("the ledger says why", || {
            found = folder.run(&search);
            !found.is_empty()
        });
        found
    }
}

#[test]
fn people_of_a_directory_log_in_and_are_here_what_they_are_there() {
    if left_out() {
        return;
    }
    let slapd = Slapd::start(true, 1);
    let town = Town::open();
    let folder = &town.shop.fleet.folder;
    let start_tls = format!("ldap://localhost:{}", slapd.plain);
    town.declare(&start_tls, Some(&slapd.files.root), "refresh = \"1s\"");

    assert!(!town.is_known("carol"));
    let carol = town.token("Carol", &password("carol"));
    let user = town.user("carol");
    assert_eq!(
        (&user["display_name"], &user["email"], &user["groups"]),
        (
            &json!("carol of Corp"),
            &json!("carol@corp.example"),
            &json!(["staff"])
        )
    );
    let claims = claims_of(&carol);
    assert_eq!(
        (&claims["acr"], &claims["amr"]),
        (&json!("1"), &json!(["pwd"]))
    );
    let story = explained(folder, &carol);
    assert_eq!(activities(&story)[0], "login.directory");
    // Her password is nowhere here.
    folder.run(&["user", "disable", "carol"]);
    assert_eq!(town.log_in("carol", &password("carol")).status, 401);
    folder.run(&["user", "enable", "carol"]);
    for wrong in ["", "wrong", &password("dave"), &"x".repeat(2000)] {
        assert_eq!(town.log_in("carol", wrong).status, 401, "{wrong}");
    }

    // Over TLS from the first byte as well; the same people.
    let ldaps = format!("ldaps://localhost:{}", slapd.tls);
    town.declare(&ldaps, Some(&slapd.files.root), "refresh = \"1s\"");
    town.token("carol", &password("carol"));
    assert_eq!(town.user("carol")["id"], user["id"]);
    let dave = town.token("dave", &password("dave"));
    for number in [0, CROWD - 1] {
        let name = format!("crowd-{number:02}");
        town.token(&name, &password(&name));
    }

    // What changes there changes here, without a login; there are more people than in one page.
    slapd.change(&format!(
        "dn: cn=shop-buyers,ou=groups,{SUFFIX}\nchangetype: modify\nadd: member\nmember: uid=carol,ou=people,{SUFFIX}\n\n\
         dn: cn=Shop-Staff,ou=groups,{SUFFIX}\nchangetype: modify\nreplace: member\nmember: uid=dave,ou=people,{SUFFIX}\n\n"
    ));
    eventually("she is in the other group", || {
        town.user("carol")["groups"] == json!(["buyers"])
    });
    // Who is gone there is gone here, tokens and all; the others are not.
    slapd.change(&format!(
        "dn: uid=dave,ou=people,{SUFFIX}\nchangetype: delete\n\n"
    ));
    eventually("he is disabled", || {
        town.user("dave")["disabled"] == json!(true)
    });
    assert_eq!(explained(folder, &dave)["standing"], "taken back");
    assert_eq!(town.log_in("dave", &password("dave")).status, 401);
    assert_eq!(town.user("carol")["disabled"], json!(false));
    assert_eq!(town.user("crowd-24")["disabled"], json!(false));
    // Whoever gets his name there is not him.
    slapd.change(&format!(
        "dn: uid=dave,ou=people,{SUFFIX}\nchangetype: add\nobjectClass: inetOrgPerson\nuid: dave\ncn: Another\nsn: Dave\n\
         userPassword: another-dave\n\n"
    ));
    assert_eq!(town.log_in("dave", "another-dave").status, 401);
    assert!(town.reason().contains("the name is somebody else's here"));
}

#[test]
fn a_directory_takes_nobody_over_and_is_believed_only_if_it_is_itself() {
    if left_out() {
        return;
    }
    let visits = Arc::new(AtomicUsize::new(0));
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let counted = Arc::clone(&visits);
    thread::spawn(move || {
        for _ in elsewhere.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let slapd = Slapd::start(true, port);
    let bare = Slapd::start(false, port);
    let town = Town::open();
    let ca = Some(&slapd.files.root);
    let start_tls = format!("ldap://localhost:{}", slapd.plain);
    town.declare(&start_tls, ca, "");

    // Her name is hers, whoever has it there.
    assert_eq!(
        town.log_in("alice", "the-alice-of-the-directory").status,
        401
    );
    assert_eq!(town.log_in("alice", &password("alice")).status, 303);
    assert_eq!(town.user("alice")["groups"], json!(["customers"]));
    // Nothing that is typed is a filter, and no password is none.
    for (name, typed) in [
        ("*", password("carol")),
        ("carol)(uid=*", password("carol")),
        ("car*", password("carol")),
        ("carol)(|(uid=*))", password("carol")),
        ("\\63arol", password("carol")),
        ("carol", String::new()),
        ("uid=carol,ou=people,dc=corp,dc=example", password("carol")),
        ("admin", SECRET.to_owned()),
        ("nobody-here", password("carol")),
    ] {
        let begun = Instant::now();
        assert_eq!(town.log_in(name, &typed).status, 401, "{name}");
        // Every no comes in its time, whoever said it.
        assert!(begun.elapsed() >= Duration::from_millis(450), "{name}");
    }
    assert!(!town.is_known("carol"));
    // A filter that holds for several people is for none of them.
    let several = "user_filter = \"(|(uid={username})(sn=Corp))\"";
    let file = town.file.clone();
    town.declare(&start_tls, ca, "");
    let folder = &town.shop.fleet.folder;
    folder.edit(
        "user_filter = \"(&(objectClass=inetOrgPerson)(uid={username}))\"",
        several,
    );
    folder.run(&["apply", "fleet.toml"]);
    assert_eq!(town.log_in("carol", &password("carol")).status, 401);
    assert!(town.reason().contains("holds for several people"));
    assert_eq!(file, town.file);

    // Not itself: another authority, another name, no TLS where TLS must be, and nobody who answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let stripped = strip_start_tls(slapd.plain);
    let all = [
        (start_tls.clone(), Some(&bare.files.root), "no TLS"),
        (
            format!("ldaps://localhost:{}", slapd.tls),
            Some(&bare.files.root),
            "no TLS",
        ),
        (format!("ldap://127.0.0.1:{}", slapd.plain), ca, "no TLS"),
        (
            format!("ldap://localhost:{}", bare.plain),
            ca,
            "it refuses StartTLS",
        ),
        (
            format!("ldap://localhost:{stripped}"),
            ca,
            "it refuses StartTLS",
        ),
        (
            format!("ldap://localhost:{}", silent.local_addr().unwrap().port()),
            ca,
            "no answer in time",
        ),
        ("ldap://localhost:1".to_owned(), ca, "no connection"),
    ];
    // Each time somebody else, so that nobody is slowed down for what others did.
    for (number, (url, ca, expected)) in all.into_iter().enumerate() {
        town.declare(&url, ca, "");
        let name = format!("crowd-{number:02}");
        let begun = Instant::now();
        assert_eq!(town.log_in(&name, &password(&name)).status, 401, "{url}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{url}");
        eventually(expected, || town.reason().contains(expected));
        // Who is here logs in all the same.
        assert_eq!(town.log_in("alice", &password("alice")).status, 303);
    }
    // Without TLS on this machine, if the file says so.
    let plain = format!("ldap://127.0.0.1:{}", bare.plain);
    town.declare(&plain, None, "plain = true\n");
    town.token("carol", &password("carol"));
    assert_eq!(
        visits.load(Ordering::SeqCst),
        0,
        "nobody was sent elsewhere"
    );
}

/// Somebody on the way who answers StartTLS in the name of the directory, with a no; what comes next goes through. The port.
fn strip_start_tls(directory: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            // ExtendedResponse to message 1 with protocolError.
            let _ = stream.write_all(&[0x30, 0x0c, 2, 1, 1, 0x78, 7, 0x0a, 1, 2, 4, 0, 4, 0]);
            let mut onwards = TcpStream::connect(("127.0.0.1", directory)).unwrap();
            let count = stream.read(&mut request).unwrap_or(0);
            let _ = onwards.write_all(&request[..count]);
            assert_eq!(count, 0, "something was said without TLS");
        }
    });
    port
}
