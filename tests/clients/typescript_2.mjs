// The TypeScript SDK 2.x, of the modern era. `node typescript_2.mjs URL`; prints what it has got as JSON.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const client = new Client({ name: "typescript", version: "2" }, { capabilities: { elicitation: {} } });
client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: { username: "ada" } }));
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
const steps = [];
const task = { name: "von-neumann__symbolic-math", arguments: { operation: "simplify", expression: "x+x" } };
console.log(JSON.stringify({
  tools: (await client.listTools()).tools.map((tool) => tool.name),
  npv: (await client.callTool({ name: "financial__npv", arguments: JSON.parse(process.argv[3]) })).structuredContent.npv,
  resource: (await client.readResource({ uri: "financial+prices://index" })).contents[0].uri,
  prompts: (await client.listPrompts()).prompts.length,
  task: (await client.callTool(task, { onprogress: (told) => steps.push(told) })).structuredContent.result,
  steps: steps.length,
  asked: (await client.callTool({ name: "old__elicit", arguments: {} })).content[0].text,
}));
await client.close();
process.exit(0);
