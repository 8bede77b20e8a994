// Reads our answers with the AI SDK's own client, as `useChat` does: one JSON request a line in, one JSON answer a line out.
//
//   {"answer": "data: …", "status": 200, "resume": false}
//   -> {"message": …, "errors": […]}     the UI message as it ended (null for none), what onError heard
//   -> {"failure": "…"}                  what it threw for a response that is no stream
import { createInterface } from "node:readline";
import { DefaultChatTransport, readUIMessageStream } from "ai";

async function read({ answer, status, resume }) {
  const fetch = async () =>
    new Response(status === 204 ? null : answer, { status, headers: { "content-type": "text/event-stream" } });
  const transport = new DefaultChatTransport({ api: "http://agentkit.test/v1/chat", fetch });
  const stream = resume
    ? await transport.reconnectToStream({ chatId: "chat" })
    : await transport.sendMessages({ chatId: "chat", messages: [], trigger: "submit-message" });
  const errors = [];
  let message = null;
  if (stream !== null) {
    const onError = (error) => errors.push(error.message.slice(0, 300));
    for await (const state of readUIMessageStream({ stream, onError })) message = state;
  }
  return { message, errors };
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await read(JSON.parse(line)).catch((error) => ({ failure: error.message }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
