// OpenAI's own client for Node: chat and responses, whole and streamed, tools, state.
import OpenAI from 'openai';
import assert from 'node:assert/strict';

const client = new OpenAI({baseURL: process.env.URL_ + '/v1', apiKey: process.env.KEY});
const parameters = {type: 'object', properties: {city: {type: 'string'}}, required: ['city']};
const tools = [{type: 'function', name: 'weather', parameters, strict: true}];
const model = 'scripted';

const chat = await client.chat.completions.create({model, messages: [{role: 'user', content: 'hi'}]});
assert.equal(chat.choices[0].message.content, 'hello there');

const whole = await client.responses.create({model, input: 'hi'});
assert.equal(whole.output_text, 'hello there');
assert.equal(whole.usage.output_tokens, 2);

let text = '';
let last;
for await (const event of await client.responses.create({model, input: 'hi', stream: true})) {
  if (event.type === 'response.output_text.delta') text += event.delta;
  last = event;
}
assert.equal(text, 'hello there');
assert.equal(last.type, 'response.completed');

const asked = await client.responses.stream({model, input: 'Oslo?', tools}).finalResponse();
const call = asked.output.find((item) => item.type === 'function_call');
assert.equal(call.arguments, '{"city": "Oslo"}');
const result = {type: 'function_call_output', call_id: call.call_id, output: 'rain'};
const told = await client.responses.create({model, input: [result], tools, previous_response_id: asked.id});
assert.equal(told.output_text, 'The tool said rain');
assert.equal((await client.responses.retrieve(told.id)).output_text, 'The tool said rain');

const poor = new OpenAI({baseURL: process.env.URL_ + '/v1', apiKey: process.env.POOR_KEY});
await assert.rejects(poor.responses.create({model, input: 'hi'}), (no) => no.code === 'budget_exceeded');
console.log('ok');
