// A service built on oauth4webapi that exchanges a token it was given (RFC 8693), and verifies with jose what it got; what it
// found is a line of JSON for `strict_clients.rs`.
//
//     node oauth4webapi_exchange.mjs <path of oauth4webapi> <path of jose>
//         <JSON with issuer, client_id, key, kid, subject_token>

import { pathToFileURL } from 'node:url';

const [webapi, joseLibrary, told] = process.argv.slice(2);
const { issuer, client_id, key, kid, subject_token } = JSON.parse(told);
const oauth = await import(pathToFileURL(webapi));
const jose = await import(pathToFileURL(joseLibrary));

const at = new URL(issuer);
const as = await oauth.processDiscoveryResponse(at, await oauth.discoveryRequest(at));
const client = { client_id };
const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const pkcs8 = Buffer.from(key, 'base64url');
const signing = await crypto.subtle.importKey('pkcs8', pkcs8, curve, false, ['sign']);
const authentication = oauth.PrivateKeyJwt({ key: signing, kid });
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const answer = await oauth.genericTokenEndpointRequest(
  as,
  client,
  authentication,
  'urn:ietf:params:oauth:grant-type:token-exchange',
  { subject_token, subject_token_type: ACCESS_TOKEN, audience: 'shop', requested_token_type: ACCESS_TOKEN },
);
const tokens = await oauth.processGenericTokenEndpointResponse(as, client, answer);
const { payload } = await jose.jwtVerify(tokens.access_token, jose.createRemoteJWKSet(new URL(as.jwks_uri)), {
  issuer,
  audience: 'https://shop.example/shop',
  typ: 'at+jwt',
  algorithms: ['ES256'],
});
const { sub } = jose.decodeJwt(subject_token);
console.log(
  JSON.stringify({
    issued_token_type: tokens.issued_token_type,
    token_type: tokens.token_type,
    same: payload.sub === sub,
    actor: payload.act.sub,
  }),
);
