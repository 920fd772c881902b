// The plans, and how the suite's browser walks through our pages.

const PLACEHOLDER = ["wait", "xpath", "//*", 10, ".*", "update-image-placeholder-optional"];

function browser({ issuer, secrets }, { user = "alice", seen = false, decision = "allow" } = {}) {
  const log = [
    ["text", "id", "username", user],
    ["text", "id", "password", secrets[user]],
    ["click", "css", "form[action='/login'] button"],
  ];
  return [
    {
      match: `${issuer}/oauth2/authorize*`,
      tasks: [
        {
          task: "Log in",
          optional: true,
          match: `${issuer}/oauth2/authorize*`,
          commands: seen ? [PLACEHOLDER, ...log] : log,
        },
        {
          task: "Allow it",
          optional: true,
          match: `${issuer}/consent*`,
          commands: [["click", "css", `button[value='${decision}']`]],
        },
        { task: "Back at the client", optional: true, match: "*/test/*/callback*", commands: [["wait", "id", "submission_complete", 10]] },
      ],
    },
    {
      match: `${issuer}/oauth2/logout*`,
      tasks: [
        {
          task: "Say yes",
          optional: true,
          match: `${issuer}/oauth2/logout*`,
          commands: [["click", "css", "button[type='submit']"]],
        },
        { task: "Logged out", optional: true, match: `${issuer}/logout*`, commands: [PLACEHOLDER] },
      ],
    },
  ];
}

// A page of ours is what the module wants to see: nobody goes on from there.
function shown({ issuer }, path = "authorize") {
  return {
    browser: [{ match: `${issuer}/oauth2/${path}*`, tasks: [{ task: "The page", match: "*", commands: [PLACEHOLDER] }] }],
  };
}

// For the first visit alone.
const once = (browser) => browser.map((steps) => ({ ...steps, "match-limit": 1 }));

export function plans(fleet) {
  const server = { discoveryUrl: `${fleet.issuer}/.well-known/openid-configuration` };
  const client = (name, further = {}) => ({ client_id: name, client_secret: fleet.secrets[name], ...further });
  const login = browser(fleet);
  const looked = { browser: browser(fleet, { seen: true }) };
  const error = shown(fleet);
  const logoutPage = { browser: [login[0], ...shown(fleet, "logout").browser] };
  const connect = {
    server,
    client: client("basic"),
    client2: client("basic-2"),
    client_secret_post: client("basic"),
    browser: login,
    override: {
      "oidcc-rp-initiated-logout-bad-post-logout-redirect-uri": logoutPage,
      "oidcc-rp-initiated-logout-modified-id-token-hint": logoutPage,
      "oidcc-rp-initiated-logout-bad-id-token-hint": logoutPage,
      "oidcc-rp-initiated-logout-no-id-token-hint": logoutPage,
      "oidcc-rp-initiated-logout-no-post-logout-redirect-uri": logoutPage,
      "oidcc-rp-initiated-logout-query-added-to-post-logout-redirect-uri": logoutPage,
      "oidcc-prompt-login": looked,
      "oidcc-max-age-1": looked,
      "oidcc-ensure-registered-redirect-uri": error,
      "oidcc-response-type-missing": error,
      "oidcc-ensure-redirect-uri-in-authorization-request": error,
      "oidcc-redirect-uri-query-mismatch": error,
      "oidcc-redirect-uri-query-added": error,
      "oidcc-unsigned-request-object-supported-correctly-or-rejected-as-unsupported": error,
      "oidcc-ensure-request-object-with-redirect-uri": error,
      "oidcc-request-uri-unsigned-supported-correctly-or-rejected-as-unsupported": error,
    },
  };
  const registered = { ...connect, client: { initial_access_token: fleet.registration }, client2: { initial_access_token: fleet.registration } };
  const still = { server_metadata: "discovery", client_registration: "static_client" };
  const dynamic = { server_metadata: "discovery", client_registration: "dynamic_client" };
  const code = { response_type: "code" };
  const signing = (name) => ({ client_id: name, jwks: { keys: [fleet.keys[name]] } });
  const fapi = {
    server,
    resource: { resourceUrl: fleet.resource },
    browser: login,
    override: {
      // Somebody who has never said yes: people are asked once.
      "fapi2-security-profile-final-user-rejects-authentication": { browser: browser(fleet, { user: "bob", decision: "deny" }) },
      // The page is opened, and then opened again to log in.
      "fapi2-security-profile-final-par-ensure-reused-request-uri-prior-to-auth-completion-succeeds": {
        browser: [...once(shown(fleet).browser), ...login],
      },
      "fapi2-security-profile-final-par-attempt-to-use-expired-request_uri": error,
      "fapi2-security-profile-final-par-attempt-to-use-request_uri-for-different-client": error,
      // The second visit comes after the login.
      "fapi2-security-profile-final-par-attempt-reuse-request_uri": { browser: [...once([login[0]]), ...error.browser] },
    },
  };
  const profiles = ["openid_connect", "plain_oauth"].map((openid) => {
    const scope = openid === "openid_connect" ? "openid profile" : "accounts groups";
    return {
      name: `fapi 2, private_key_jwt, dpop, ${openid}`,
      plan: "fapi2-security-profile-final-test-plan",
      variant: { fapi_profile: "plain_fapi", client_auth_type: "private_key_jwt", sender_constrain: "dpop", openid },
      config: { ...fapi, client: { ...signing("fapi"), scope }, client2: { ...signing("fapi-2"), scope } },
    };
  });
  return [
    ...profiles,
    { name: "config", plan: "oidcc-config-certification-test-plan", variant: {}, config: { server } },
    { name: "basic", plan: "oidcc-basic-certification-test-plan", variant: still, config: connect },
    { name: "basic, registered", plan: "oidcc-basic-certification-test-plan", variant: dynamic, config: registered },
    {
      name: "rp-initiated logout",
      plan: "oidcc-rp-initiated-logout-certification-test-plan",
      variant: { ...code, client_registration: "static_client" },
      config: connect,
    },
    {
      name: "back-channel logout",
      plan: "oidcc-backchannel-rp-initiated-logout-certification-test-plan",
      variant: { ...code, client_registration: "static_client" },
      config: { ...connect, client: client("told") },
    },
  ];
}
