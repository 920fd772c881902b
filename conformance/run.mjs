// Runs the OpenID Foundation's conformance suite against a fleet of its own, and says how each module ended.
//
//   node conformance/run.mjs --suite https://localhost.emobix.co.uk:8443 --suite-ca suite.pem --testudo target/release/testudo [plan…]
//
// Without names all plans of `plans.mjs` are run. The suite must run already; how, its own documentation says.

import { execFileSync, spawn } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { cpSync, mkdirSync, mkdtempSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { plans } from "./plans.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { values: options, positionals: wanted } = parseArgs({
  allowPositionals: true,
  options: {
    suite: { type: "string" },
    "suite-ca": { type: "string" },
    testudo: { type: "string" },
    folder: { type: "string" },
    module: { type: "string" },
    results: { type: "string" },
  },
});
// The suite has a certificate that it has made itself.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
process.removeAllListeners("warning");

const folder = options.folder ?? mkdtempSync(join(tmpdir(), "conformance-"));
const PORTS = { GATEWAY: 16443, REDIRECT: 16080, SERVER: 16444, GRPC: 16445, OPS: 16446 };

// ---- the fleet --------------------------------------------------------------------------------------------------

function signingKey(kid) {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" };
}

const publicSet = ({ d, ...key }) => JSON.stringify({ keys: [key] });

async function startFleet() {
  const accounts = createServer((_, response) => response.setHeader("content-type", "application/json").end("{}"));
  await new Promise((listening) => accounts.listen(0, "127.0.0.1", listening));
  const secrets = Object.fromEntries(["alice", "bob", "basic", "basic-2", "told"].map((name) => [name, randomBytes(24).toString("base64url")]));
  const keys = { fapi: signingKey("fapi"), "fapi-2": signingKey("fapi-2") };

  mkdirSync(join(folder, "passwords"), { recursive: true });
  cpSync(join(here, "policies"), join(folder, "policies"), { recursive: true });
  cpSync(options["suite-ca"], join(folder, "suite.pem"));
  for (const [name, secret] of Object.entries(secrets)) writeFileSync(join(folder, "passwords", name), secret);
  const filled = readFileSync(join(here, "fleet.toml"), "utf8")
    .replaceAll("{suite}", options.suite)
    .replaceAll("{accounts}", accounts.address().port)
    .replaceAll("{fapi}", publicSet(keys.fapi))
    .replaceAll("{fapi-2}", publicSet(keys["fapi-2"]));
  writeFileSync(join(folder, "fleet.toml"), filled);

  const environment = { ...process.env, TESTUDO_HOME: join(folder, "home") };
  for (const [name, port] of Object.entries(PORTS)) environment[`TESTUDO__LISTEN__${name}`] = `127.0.0.1:${port}`;
  for (const side of ["INBOUND", "OUTBOUND"]) environment[`TESTUDO__LISTEN__SIDECAR_${side}`] = "127.0.0.1:0";
  const run = (...words) => execFileSync(options.testudo, words, { cwd: folder, env: environment, encoding: "utf8" });
  const fleet = spawn(options.testudo, ["up", "fleet.toml", "--output", "json"], {
    cwd: folder,
    env: environment,
    stdio: ["ignore", "pipe", openSync(join(folder, "log"), "a")],
  });
  process.on("exit", () => fleet.kill());
  const ready = await new Promise((resolve, reject) => {
    let text = "";
    fleet.stdout.on("data", (chunk) => {
      text += chunk;
      try {
        resolve(JSON.parse(text));
      } catch {
        // More is to come.
      }
    });
    fleet.on("exit", (code) => reject(new Error(`the fleet ended with ${code}`)));
  });
  const registration = run("registration-token", "create", "--uses", "500").trim();
  const resource = `https://localhost:${PORTS.GATEWAY}/accounts`;
  return { issuer: ready.server, resource, secrets, keys, registration };
}

// ---- the suite --------------------------------------------------------------------------------------------------

async function suite(method, path, body) {
  const answer = await fetch(`${options.suite}/api/${path}`, {
    method,
    headers: { "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const ENDED = ["FINISHED", "INTERRUPTED"];

async function runModule(plan, module) {
  const query = new URLSearchParams({ test: module.testModule, plan });
  if (module.variant) query.set("variant", JSON.stringify(module.variant));
  const { id } = await suite("POST", `runner?${query}`);
  const until = Date.now() + 150_000;
  while (Date.now() < until) {
    const { status, result } = await suite("GET", `info/${id}`);
    if (ENDED.includes(status)) return { id, status, result, problems: await problems(id) };
    if (status === "CONFIGURED") await suite("POST", `runner/${id}`);
    await new Promise((later) => setTimeout(later, 300));
  }
  const { status } = await suite("GET", `info/${id}`);
  return { id, status, result: "TIMEOUT", problems: await problems(id) };
}

// What the log has that is not as it should be.
async function problems(id) {
  const log = await suite("GET", `log/${id}`);
  return log.filter((entry) => ["FAILURE", "WARNING", "REVIEW"].includes(entry.result)).map(({ result, src, msg }) => `${result} ${src}: ${msg}`);
}

const fleet = await startFleet();
const results = {};
for (const plan of plans(fleet)) {
  if (wanted.length && !wanted.includes(plan.name)) continue;
  const query = new URLSearchParams({ planName: plan.plan, variant: JSON.stringify(plan.variant) });
  const { id, modules } = await suite("POST", `plan?${query}`, { alias: "testudo", description: plan.name, ...plan.config });
  console.log(`\n## ${plan.name}\n`);
  results[plan.name] = {};
  for (const module of modules) {
    if (options.module && !module.testModule.match(options.module)) continue;
    const ended = await runModule(id, module);
    const name = module.variant?.client_auth_type ? `${module.testModule} (${module.variant.client_auth_type})` : module.testModule;
    results[plan.name][name] = ended;
    console.log(`${ended.status === "INTERRUPTED" ? "INTERRUPTED " : ""}${ended.result} ${name} ${ended.id}`);
    for (const problem of ended.problems) console.log(`    ${problem}`);
  }
}
if (options.results) writeFileSync(options.results, JSON.stringify(results, null, 1));
const ended = Object.values(results).flatMap((modules) => Object.values(modules));
process.exit(ended.every(({ status, result }) => status === "FINISHED" && result !== "FAILED") ? 0 : 1);
