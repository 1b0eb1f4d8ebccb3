// The page: takes pictures, hands them to worker.js, and shows the results.
'use strict';

const element = id => document.getElementById(id);
const DEVICES = {webgpu: 'GPU (WebGPU)', wasm: 'CPU (WebAssembly)'};
const times = [];  // milliseconds of each picture that was classified on the present device
const waiting = new Map();  // what shows the result of a picture, by its number
let model, worker, count = 0;
let latest = '';  // the result of the picture that was classified last

function say(text) {
  element('status').textContent = text;
}

function complain(text) {
  const line = document.createElement('p');
  line.textContent = text;
  element('errors').append(line);
}

const megabytes = bytes => `${(bytes / 1e6).toFixed(1)} MB`;
const milliseconds = time => time < 10 ? time.toFixed(1) : time.toFixed(0);
const percent = share => `${(100 * share).toFixed(1)} %`;

// Starts the network on a device. Pictures that are waiting are classified when it is ready.
function start(device) {
  worker?.terminate();
  times.length = 0;
  const {script, wasm} = model.runtime[device];
  say(`Loading ONNX Runtime (${megabytes(script.bytes + wasm.bytes)}) and the network (${megabytes(model.file.bytes)})…`);
  setState('loading');
  element('device').value = device;
  worker = new Worker('worker.js');
  worker.onerror = event => fail(device, event.message || 'worker.js cannot be loaded');
  worker.onmessage = ({data}) => {
    if (data.ready) {
      ready(device, data.ready);
    } else if (data.id === undefined || data.isDevice && device !== 'wasm') {
      fail(device, data.error);
    } else {
      show(data);
    }
  };
  worker.postMessage({model, device});
  for (const [id, {blob}] of waiting) {
    worker.postMessage({id, blob});
  }
}

function setState(state) {
  element('classify').dataset.state = state;
  element('results').setAttribute('aria-busy', String(state === 'loading'));
}

function ready(device, {threads}) {
  element('classify').dataset.place = DEVICES[device] + (threads > 1 ? `, ${threads} threads` : '');
  setState('ready');
  summarize();
}

// Goes on with the CPU if the GPU fails.
function fail(device, reason) {
  complain(`The network cannot run on the ${DEVICES[device]}: ${reason}.`);
  if (device !== 'wasm') {
    start('wasm');
    return;
  }
  worker.terminate();
  giveUp();
}

function giveUp() {
  setState('failed');
  waiting.forEach(({card}) => card.remove());
  waiting.clear();
  element('remove').hidden = !element('results').children.length;
  say('No picture can be classified. Reload the page to try again.');
}

function summarize() {
  const {place} = element('classify').dataset;
  if (waiting.size) {
    say(`${waiting.size} ${waiting.size === 1 ? 'picture is' : 'pictures are'} waiting.`);
  } else if (times.length) {
    const median = [...times].sort((a, b) => a - b)[times.length >> 1];
    const ofHowMany = times.length > 1 ? `, the median of ${times.length}` : '';
    say(`${latest}. ${milliseconds(median)} milliseconds per picture${ofHowMany}, on the ${place}.`);
  } else {
    say(`Ready, on the ${place}.`);
  }
}

function add(files) {
  if (element('classify').dataset.state === 'failed') {
    return;
  }
  element('errors').replaceChildren();
  const cards = [...files].map(file => {
    const card = element('result').content.firstElementChild.cloneNode(true);
    card.querySelector('h3').textContent = card.querySelector('h3').title = file.name;
    card.querySelector('.soft').textContent = 'Waiting…';
    card.setAttribute('aria-busy', 'true');
    const image = card.querySelector('img'), url = URL.createObjectURL(file);
    image.onerror = () => image.remove();
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
    waiting.set(++count, {blob: file, card});
    worker?.postMessage({id: count, blob: file});
    return card;
  });
  element('results').prepend(...cards);
  element('remove').hidden = false;
  if (element('classify').dataset.state === 'ready') {
    summarize();
  }
}

function show({id, error, top, prepareTime, runTime}) {
  const {card, blob} = waiting.get(id) ?? {};
  if (!card) {  // the results were removed while it was waiting
    return;
  }
  waiting.delete(id);
  if (error) {
    complain(`${blob.name}: ${error}.`);
    card.remove();
    element('remove').hidden = !element('results').children.length;
  } else {
    times.push(runTime);
    latest = `${blob.name}: ${top[0].label}, ${percent(top[0].share)}`;
    card.removeAttribute('aria-busy');
    card.querySelector('.top').append(...top.map(bar));
    card.querySelector('.soft').textContent =
      `${milliseconds(runTime)} ms, prepared in ${milliseconds(prepareTime)} ms`;
  }
  summarize();
}

function bar({label, share}) {
  const row = document.createElement('li'), name = document.createElement('span'), value = document.createElement('span');
  name.textContent = label;
  value.textContent = percent(share);
  row.append(name, value);
  row.style.setProperty('--share', String(share));
  return row;
}

let isOpening = false;  // the camera; a second click would open a second stream

async function openCamera() {
  if (isOpening) {
    return;
  }
  isOpening = true;
  element('errors').replaceChildren();
  try {
    if (!navigator.mediaDevices) {
      throw new Error('browsers give it only to pages from https:// addresses');
    }
    element('video').srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    await element('video').play();
    element('camera').showModal();
  } catch (error) {
    stopCamera();
    const reason = {NotAllowedError: 'it was not allowed', NotFoundError: 'this device has none'}[error.name];
    complain(`The camera cannot be used: ${reason ?? error.message}.`);
  } finally {
    isOpening = false;
  }
}

function stopCamera() {
  element('video').srcObject?.getTracks().forEach(track => track.stop());
  element('video').srcObject = null;
}

function takePicture() {
  const video = element('video'), canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob(blob => add([new File([blob], `Camera, ${new Date().toLocaleTimeString()}`, {type: blob.type})]));
  element('camera').close();
}

function listen() {
  const drop = element('drop');
  element('files').addEventListener('change', event => {
    add(event.target.files);
    event.target.value = '';  // so that the same file can be chosen again
  });
  addEventListener('dragover', event => {
    event.preventDefault();
    drop.classList.add('over');
  });
  addEventListener('dragleave', event => drop.classList.toggle('over', event.relatedTarget !== null));
  addEventListener('drop', event => {
    event.preventDefault();
    drop.classList.remove('over');
    take(event.dataTransfer, 'What was dropped is not a file; save the picture first and drop its file.');
  });
  addEventListener('paste', event => take(event.clipboardData, 'There is no picture in the clipboard.'));
  element('open-camera').addEventListener('click', openCamera);
  element('take').addEventListener('click', takePicture);
  element('close-camera').addEventListener('click', () => element('camera').close());
  element('camera').addEventListener('close', stopCamera);
  element('device').addEventListener('change', event => start(event.target.value));
  element('remove').addEventListener('click', () => {
    const isBusy = waiting.size > 0;
    waiting.clear();
    times.length = 0;
    element('errors').replaceChildren();
    element('results').replaceChildren();
    element('remove').hidden = true;
    element('files').focus();
    if (isBusy) {
      start(element('device').value);
    } else if (element('classify').dataset.state === 'ready') {
      summarize();
    }
  });
}

function take({files}, sentence) {
  if (files.length) {
    add(files);
  } else {
    element('errors').replaceChildren();
    complain(sentence);
  }
}

async function main() {
  if (location.protocol === 'file:') {
    say('Browsers do not let a page that was opened as a file read other files. Start a web server in its folder with '
      + '"python -m http.server", and open http://localhost:8000.');
    return;
  }
  say('Loading…');
  listen();
  let adapter;
  try {
    const response = await fetch('model.json', {cache: 'no-cache'});  // asks whether it has changed
    if (!response.ok) {
      throw new Error(`the server answered ${response.status}`);
    }
    model = await response.json();
    adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  } catch (error) {
    complain(`model.json cannot be loaded: ${error.message}.`);
    giveUp();
    return;
  }
  if (adapter) {
    element('device').prepend(new Option(DEVICES.webgpu, 'webgpu'));
    element('device').disabled = false;
  }
  start(adapter && !adapter.info?.isFallbackAdapter ? 'webgpu' : 'wasm');
}

main();
