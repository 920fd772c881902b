// A person in front of an application that is a program of its own, in whatever language. It says `{"open": address}` on a
// line when its user's browser shall go somewhere, and reads on a line where the browser came back to; what it found is
// its last line.
//
//     node companion.mjs <program and its arguments>... <JSON with redirect_uri, user, password, and what the program wants>

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { logIn } from './person.mjs';

const [program, ...rest] = process.argv.slice(2);
const { redirect_uri: until, user, password } = JSON.parse(rest.at(-1));
const application = spawn(program, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
application.on('exit', (code) => (process.exitCode = code ?? 1));
for await (const line of createInterface({ input: application.stdout })) {
  const { open } = JSON.parse(line);
  if (open) {
    const { callback } = await logIn(open, { until, user, password });
    application.stdin.write(`${callback.href}\n`);
  } else {
    console.log(line);
  }
}
