// A Next.js app's side of things, as the README shows it: Supabase's and the AI SDK's own clients, a running stack.
//
//   node app.mjs SCENARIO      the stack's variables in the environment
//
// Prints `"go"` where it waits for the model to go on, and at the end one JSON object: what the app saw. `Chat` is what
// `useChat` makes and renders; it needs no browser.
import { Chat } from "@ai-sdk/react";
import { createClient } from "@supabase/supabase-js";
import { DefaultChatTransport } from "ai";

const { AGENTKIT_URL: base, SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, DEMO_ADA_EMAIL, DEMO_ADA_PASSWORD } = process.env;

const supabase = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, { auth: { autoRefreshToken: false } });
const authorization = async () => ({
  Authorization: `Bearer ${(await supabase.auth.getSession()).data.session?.access_token}`,
});
const transport = new DefaultChatTransport({
  api: `${base}/v1/chat`,
  headers: authorization,
  prepareSendMessagesRequest: ({ id, messages, trigger, messageId }) => ({
    body: { id, message: messages.at(-1), trigger, messageId },
  }),
});
const failures = [];

const say = (value) => console.log(JSON.stringify(value));
const chatOf = (id, messages = []) =>
  new Chat({ id, messages, transport, onError: (error) => failures.push(error.message) });

async function call(method, path, body) {
  const headers = { ...(await authorization()), "Content-Type": "application/json" };
  const answer = await fetch(`${base}${path}`, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${await answer.text()}`);
  return answer.json();
}

async function upload(file) {
  const facts = { filename: file.name, media_type: file.type, size_bytes: file.size };
  const { id, upload } = await call("POST", "/v1/documents", facts);
  const put = await fetch(upload.url, { method: upload.method, headers: upload.headers, body: file });
  if (!put.ok) throw new Error(`the bucket answered ${put.status}`);
  const { job_id } = await call("POST", `/v1/documents/${id}/ingest`);
  const seen = [];
  const job = await follow(job_id, ({ status }) => seen.push(status));
  if (job.status !== "ready") throw new Error(JSON.stringify(job.error));
  return { document: id, job, seen };
}

/** How the README follows a job, without the types. */
async function follow(jobId, tell) {
  for (;;) {
    const answer = await fetch(`${base}/v1/jobs/${jobId}/events`, { headers: await authorization() });
    if (!answer.ok) throw new Error(await answer.text());
    let rest = "";
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
      const events = (rest + piece).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const kind = /^event: (.*)$/m.exec(event)?.[1];
        if (!kind) continue; // ": ping"
        const data = JSON.parse(/^data: (.*)$/m.exec(event)[1]);
        if (kind === "error") throw new Error(data.detail);
        tell(data);
        if (kind === "done") return data;
      }
    }
  }
}

/** The messages that the server keeps of a chat: a page loads them before it is shown. */
const kept = async (id) => (await call("GET", `/v1/conversations/${id}`)).messages;

/** Resolves once the chat's last message is an answer that has begun to speak. */
const speaking = (chat) =>
  new Promise((resolve) => {
    const look = () => chat.lastMessage?.role === "assistant" && chat.lastMessage.parts.some(isText) && resolve();
    chat["~registerMessagesCallback"](look);
    look();
  });
const isText = (part) => part.type === "text" && part.text !== "";

const scenarios = {
  async upload() {
    const text = "# Notice\n\nThe lighthouse opens to visitors on 4 May 2031.\n";
    const uploaded = await upload(new File([text], "notice.md", { type: "text/markdown" }));
    const { passages } = await call("POST", "/v1/search", { text: "When does the lighthouse open?", limit: 5 });
    return { ...uploaded, passages };
  },

  async ask() {
    const chat = chatOf(crypto.randomUUID());
    await chat.sendMessage({ text: "When does the lighthouse open?" });
    const later = chatOf(chat.id, await kept(chat.id));
    const found = [...later.messages];
    await later.resumeStream();
    const unchanged = JSON.stringify(later.messages) === JSON.stringify(found);
    await later.sendMessage({ text: "Who says so?" });
    await later.regenerate();
    return { messages: chat.messages, found, unchanged, later: later.messages, status: later.status };
  },

  async reload() {
    const chat = chatOf(crypto.randomUUID());
    const answering = chat.sendMessage({ text: "When does the lighthouse open?" });
    await speaking(chat);
    const reloaded = chatOf(chat.id, await kept(chat.id));
    const found = [...reloaded.messages];
    const resuming = reloaded.resumeStream();
    await speaking(reloaded);
    say("go");
    await Promise.all([answering, resuming]);
    return { messages: chat.messages, found, reloaded: reloaded.messages };
  },

  async stop() {
    const chat = chatOf(crypto.randomUUID());
    const answering = chat.sendMessage({ text: "When does the lighthouse open?" });
    await speaking(chat);
    const { stopped } = await call("POST", `/v1/chat/${chat.id}/stop`);
    await answering;
    const found = await kept(chat.id);
    // Who has stopped one answer asks for the next at once.
    await chat.sendMessage({ text: "Once more, please." });
    return { stopped, found, messages: chat.messages, status: chat.status };
  },
};

const { error } = await supabase.auth.signInWithPassword({ email: DEMO_ADA_EMAIL, password: DEMO_ADA_PASSWORD });
if (error) throw error;
say({ ...(await scenarios[process.argv[2]]()), failures });
