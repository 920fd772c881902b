// Passkeys: asks the browser for one and sends what it says as an ordinary form. All it needs stands in that form; it loads
// nothing and talks to nobody. Without it the pages lack passkeys and nothing else.
"use strict";

const bytes = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

/** Sends `form` with the parts of a response. */
function send(form, parts) {
  for (const [name, part] of Object.entries(parts)) form.elements[name].value = part ? text(part) : "";
  form.submit();
}

/** Says what went wrong where the user looks, so that a screen reader says it too. */
function say(form, problem) {
  form.querySelector("[role=alert]")?.remove();
  const alert = document.createElement("p");
  alert.className = "alert";
  alert.setAttribute("role", "alert");
  alert.textContent = problem;
  form.querySelector("button").before(alert);
}

/** Asks for a passkey of this site, and sends it. */
async function logIn(form, options) {
  const { rawId, response } = await navigator.credentials.get({
    ...options,
    publicKey: {
      challenge: bytes(form.dataset.challenge),
      rpId: form.dataset.rpId,
      userVerification: "required",
    },
  });
  send(form, {
    credential_id: rawId,
    client_data: response.clientDataJSON,
    authenticator_data: response.authenticatorData,
    signature: response.signature,
    user_handle: response.userHandle,
  });
}

/** Offers passkeys among what the browser fills in for the name, and beside it by the button. */
function offerLogin(form) {
  let waiting;
  const fillIn = async () => {
    if (!("offer" in form.dataset && (await PublicKeyCredential.isConditionalMediationAvailable?.()))) return;
    waiting = new AbortController();
    await logIn(form, { mediation: "conditional", signal: waiting.signal }).catch(() => {});
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    waiting?.abort();
    try {
      await logIn(form, {});
    } catch {
      say(form, form.dataset.failed);
      fillIn();
    }
  });
  form.hidden = false;
  fillIn();
}

/** Makes a passkey, and sends it. */
async function create(form) {
  const { challenge, rpId, rpName, userId, userName, displayName, exclude, algorithms, attestation } = form.dataset;
  const list = (words) => words.split(" ").filter(Boolean);
  const { response } = await navigator.credentials.create({
    publicKey: {
      challenge: bytes(challenge),
      rp: { id: rpId, name: rpName },
      user: { id: bytes(userId), name: userName, displayName },
      pubKeyCredParams: list(algorithms).map((alg) => ({ type: "public-key", alg: Number(alg) })),
      excludeCredentials: list(exclude).map((id) => ({ type: "public-key", id: bytes(id) })),
      authenticatorSelection: { residentKey: "required", requireResidentKey: true, userVerification: "required" },
      attestation,
    },
  });
  send(form, { client_data: response.clientDataJSON, attestation_object: response.attestationObject });
}

function offerCreation(form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await create(form);
    } catch (error) {
      say(form, error.name === "InvalidStateError" ? form.dataset.known : form.dataset.failed);
    }
  });
}

const knowsPasskeys = "PublicKeyCredential" in window;
const login = document.getElementById("passkey-login");
const creation = document.getElementById("passkey-create");
if (login && knowsPasskeys) offerLogin(login);
if (creation && knowsPasskeys) offerCreation(creation);
if (creation && !knowsPasskeys) say(creation, creation.dataset.unknown);
