// Prefill and decode speed of llama.cpp, by way of npm's node-llama-cpp: one JSON line.
//
//   node llama-cpp.mjs MODEL THREADS N_PREFILL N_DECODE      (run where node-llama-cpp is installed)
//
// What goes wrong is one line on standard error.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

process.on("uncaughtException", error => {
    console.error(`llama-cpp.mjs: ${String(error.message).split("\n")[0]}`);
    process.exit(1);
});

const require = createRequire(process.cwd() + "/");
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const [model_path, threads, n_prefill, n_decode] = process.argv.slice(2).map((a, i) => (i ? Number(a) : a));

const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: threads});
const model = await llama.loadModel({modelPath: model_path, useMmap: true});
const context = await model.createContext({
    contextSize: n_prefill + n_decode + 64, batchSize: Math.max(n_prefill, 1), threads, flashAttention: false,
});

async function tokens_per_second(n, run) {
    const begin = process.hrtime.bigint();
    await run();
    return n / (Number(process.hrtime.bigint() - begin) / 1e9);
}

const n_vocab = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
const prompt = Array.from({length: n_prefill}, (_, i) => (300 + ((i * 7919) % 20000)) % n_vocab);
const sequence = context.getSequence();
await sequence.evaluateWithoutGeneratingNewTokens(prompt); // pages and threads are warm, as the others' are
await sequence.clearHistory();
const prefill = await tokens_per_second(n_prefill, () => sequence.evaluateWithoutGeneratingNewTokens(prompt));
await sequence.clearHistory();
// A generator that is asked for tokens: the other call leaves the output head out.
const tokens = sequence.evaluate(prompt.slice(0, 8), {temperature: 0, yieldEogToken: true});
await tokens.next();
const decode = await tokens_per_second(n_decode, async () => {
    for (let i = 0; i < n_decode; i++)
        await tokens.next();
});
console.log(JSON.stringify({prefill, decode}));
process.exit(0);
