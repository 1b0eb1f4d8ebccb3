// Runs the network, so that the page stays responsive. Messages to this worker: {model, device} first, then {id, blob}
// for each picture. It answers {ready: …} once, and {id, …} for each picture, or {error} if it cannot go on. An error
// with isDevice is one of the device, such as a GPU that was lost, and not of the picture.
'use strict';

importScripts('prepare.js');

const MAX_THREADS = 4;  // most networks gain little from more

let network;  // {session, ort, model}, when it is loaded

// Fetches a file whose hash must be `integrity`; browsers do not check the files that a script loads by itself.
async function fetchChecked({path, integrity}) {
  let response;
  try {
    response = await fetch(path, {integrity, cache: 'no-cache'});  // asks whether it has changed
  } catch (error) {
    throw new Error(`${path} cannot be loaded, or it is not the expected file`);
  }
  if (!response.ok) {
    throw new Error(`${path} cannot be loaded: the server answered ${response.status}`);
  }
  return response.arrayBuffer();
}

async function load(model, device) {
  const {script, wasm} = model.runtime[device];
  const [code, binary, file] = await Promise.all([script, wasm, model.file].map(fetchChecked));
  const ort = await import(URL.createObjectURL(new Blob([code], {type: 'text/javascript'})));
  ort.env.wasm.wasmBinary = binary;
  // Threads share memory, which browsers allow only on pages that are isolated from others by headers of the server.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MAX_THREADS) : 1;
  ort.env.logLevel = 'error';
  const session = await ort.InferenceSession.create(new Uint8Array(file), {executionProviders: [device]});
  network = {session, ort, model};
  const difference = await compare(model.reference);
  return {difference, threads: device === 'wasm' ? ort.env.wasm.numThreads : null};
}

// Returns the output of the network for a prepared image, and the milliseconds that it took.
async function run(prepared) {
  const {session, ort, model} = network, {values, shape} = feed(prepared, model.preprocessing);
  const tensor = new ort.Tensor(model.preprocessing.dtype, values, shape);
  const begun = performance.now();
  let results;
  try {
    const {[session.outputNames[0]]: output} = await session.run({[session.inputNames[0]]: tensor});
    results = Array.from(output.data);
  } catch (error) {
    throw Object.assign(new Error(error.message || String(error)), {isDevice: true});
  }
  return {results, runTime: performance.now() - begun};
}

// Returns the relative difference from the results of ONNX Runtime for the reference image. This is the first run,
// which takes longer than the later ones.
async function compare(reference) {
  const {results} = await run(referenceImage(network.model.preprocessing.input_size));
  const norm = values => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const difference = norm(results.map((value, i) => value - reference.output[i])) / norm(reference.output);
  if (!(difference <= reference.tolerance)) {
    throw new Error(`its results differ from those of ONNX Runtime by ${difference.toPrecision(2)} (relative)`);
  }
  return difference;
}

async function decode(blob) {
  try {  // Pillow ignores colour profiles, too, and the picture is turned upright as its EXIF data say
    return await createImageBitmap(blob, {colorSpaceConversion: 'none', imageOrientation: 'from-image'});
  } catch (error) {
    throw new Error('it is not a picture that this browser can read');
  }
}

async function classify(blob) {
  const bitmap = await decode(blob), begun = performance.now();
  const {preprocessing} = network.model;
  let prepared;
  try {
    prepared = prepare(bitmap, preprocessing);
  } finally {
    bitmap.close();
  }
  const prepareTime = performance.now() - begun;
  const {results, runTime} = await run(prepared);
  if (!results.every(Number.isFinite)) {
    throw new Error('the network returns NaN or infinite values for it');
  }
  const shares = preprocessing.output === 'probabilities' ? results : softmax(results);
  const top = shares.map((share, index) => ({share, label: preprocessing.class_names[index]}))
    .sort((a, b) => b.share - a.share).slice(0, 5);
  return {top, prepareTime, runTime};
}

function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b)), powers = logits.map(value => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map(power => power / sum);
}

let queue = Promise.resolve();  // one message after another

onmessage = ({data}) => {
  queue = queue.then(async () => {
    try {
      postMessage(data.model ? {ready: await load(data.model, data.device)}
        : {id: data.id, ...await classify(data.blob)});
    } catch (error) {
      postMessage({id: data.id, error: error.message || String(error), isDevice: error.isDevice});
    }
  });
};
