// Reads requests with Node's `http` and answers each with how it was read: method, target, body in hexadecimal.

import { createServer } from "node:http";

const hex = (text) => Buffer.from(text, "latin1").toString("hex");

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks).toString("hex") || "-";
    response.setHeader("X-Reading", `${request.method} ${hex(request.url)} ${body}`);
    response.setHeader("Content-Length", "0");
    response.end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
