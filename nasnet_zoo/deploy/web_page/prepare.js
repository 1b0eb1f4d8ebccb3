// Prepares pictures for the network as nasnet_zoo.data.preprocessing does.
//
// Browsers resize in ways of their own, which change the classes of some pictures. Therefore pictures are decoded by
// the browser but resized here, by the algorithm of Pillow (libImaging/Resample.c): its filters, its fixed-point
// weights, and its rounding of the pixels between the horizontal and the vertical pass. The result is the same to the
// bit if the decoded pixels are, with one exception: where the height shrinks by more than twice as many pixels as the
// width, Pillow 13 does the vertical pass first, and pixels may differ by 1.
'use strict';

const MAX_ASPECT_RATIO = 64;  // as in nasnet_zoo.data.preprocessing
const STRIP_HEIGHT = 256;  // rows of a picture that are read at a time, since some browsers limit the size of a canvas
const WEIGHT_SCALE = 2 ** 22;  // of Pillow's fixed-point weights

const sinc = x => x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);

// For each filter: half its width, and its value at a distance from the centre.
const FILTERS = {
  bilinear: {support: 1, weight: x => Math.max(0, 1 - Math.abs(x))},
  bicubic: {support: 2, weight: x => {
    x = Math.abs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  }},
  lanczos: {support: 3, weight: x => x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0},
};

// Rounds halves to the even number, as Python does.
function roundToEven(x) {
  const floor = Math.floor(x);
  return x - floor !== 0.5 ? Math.round(x) : floor + floor % 2;
}

// The height and width to which a picture is resized before its centre is cropped.
function resizedSize(height, width, preprocessing) {
  const [rows, columns] = preprocessing.input_size.slice(1).map(side => Math.floor(side / preprocessing.crop_pct));
  if (preprocessing.crop_mode === 'squash') {
    return [rows, columns];
  }
  if (rows === columns) {
    return width <= height ? [Math.trunc(rows * height / width), rows] : [rows, Math.trunc(rows * width / height)];
  }
  const ratio = Math.min(height / rows, width / columns);
  return [roundToEven(height / ratio), roundToEven(width / ratio)];
}

// Along one axis: for each of `cropped` positions in the middle of `resized`, the first position in the picture that
// contributes to it, and the weights of this and the following ones. There are none where the crop exceeds the picture.
function contributions(original, resized, cropped, interpolation) {
  const offset = resized < cropped ? -Math.floor((cropped - resized) / 2) : roundToEven((resized - cropped) / 2);
  const scale = original / resized;
  const axis = [];
  let nearest = scale * 0.5;  // a sum, with the rounding errors of Pillow's
  for (let position = 0; position < Math.max(resized, offset + cropped); position++, nearest += scale) {
    if (position < offset || position >= offset + cropped) {
      continue;
    }
    axis.push(position >= resized ? {first: 0, weights: []}
      : interpolation === 'nearest' ? {first: Math.floor(nearest), weights: [WEIGHT_SCALE]}
      : filterWeights(original, scale, position, FILTERS[interpolation]));
  }
  return [...Array(cropped - axis.length).fill({first: 0, weights: []}), ...axis];
}

function filterWeights(original, scale, position, filter) {
  const stretch = Math.max(scale, 1), support = filter.support * stretch, center = (position + 0.5) * scale;
  const first = Math.max(Math.trunc(center - support + 0.5), 0);
  const count = Math.min(Math.trunc(center + support + 0.5), original) - first;
  const weights = Array.from({length: count}, (_, i) => filter.weight((i + first - center + 0.5) / stretch));
  const sum = weights.reduce((a, b) => a + b, 0);
  return {first, weights: Float64Array.from(weights, weight => {
    const scaled = weight / sum * WEIGHT_SCALE;
    return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  })};
}

// Sums `weights` times the values of `pixels` from `start` on at distances of `stride`, as an 8-bit number.
function weightedSum(pixels, start, stride, weights) {
  let sum = WEIGHT_SCALE / 2;
  for (let i = 0; i < weights.length; i++) {
    sum += pixels[start + i * stride] * weights[i];
  }
  return Math.min(Math.max(Math.floor(sum / WEIGHT_SCALE), 0), 255);
}

// Calls `use` with the pixels, RGBA, of the rows `begin` to `end` of an ImageBitmap, strip by strip.
function readStrips(bitmap, begin, end, use) {
  const canvas = new OffscreenCanvas(bitmap.width, Math.min(STRIP_HEIGHT, end - begin));
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingEnabled = false;
  for (let top = begin; top < end; top += canvas.height) {
    const rows = Math.min(canvas.height, end - top);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, top, bitmap.width, rows, 0, 0, bitmap.width, rows);
    use(context.getImageData(0, 0, bitmap.width, rows).data, top, rows);
  }
}

// Replaces red by Pillow's grey.
function toGrey(pixels) {
  for (let i = 0; i < pixels.length; i += 4) {
    pixels[i] = (pixels[i] * 19595 + pixels[i + 1] * 38470 + pixels[i + 2] * 7471 + 0x8000) >> 16;
  }
}

// Resizes and crops an ImageBitmap. Returns a Uint8Array [channels, height, width].
function prepare(bitmap, preprocessing) {
  const {width, height} = bitmap, [channels, rows, columns] = preprocessing.input_size;
  if (Math.max(width, height) > MAX_ASPECT_RATIO * Math.min(width, height)) {
    throw new Error(`${width} x ${height} pixels are too long and narrow`);
  }
  if (channels !== (preprocessing.color_order === 'L' ? 1 : 3)) {
    throw new Error(`the network takes ${channels} channels, which no picture has`);
  }
  const [resizedHeight, resizedWidth] = resizedSize(height, width, preprocessing);
  const across = contributions(width, resizedWidth, columns, preprocessing.interpolation);
  const down = contributions(height, resizedHeight, rows, preprocessing.interpolation);
  const begin = Math.min(...down.map(({first, weights}) => weights.length ? first : height));
  const end = Math.max(...down.map(({first, weights}) => first + weights.length));
  const narrow = new Uint8Array(channels * height * columns);  // after the horizontal pass
  readStrips(bitmap, begin, end, (pixels, top, count) => {
    if (preprocessing.color_order === 'L') {
      toGrey(pixels);
    }
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < count; y++) {
        for (let x = 0; x < columns; x++) {
          narrow[(channel * height + top + y) * columns + x] = weightedSum(
            pixels, (y * width + across[x].first) * 4 + channel, 4, across[x].weights);
        }
      }
    }
  });
  const prepared = new Uint8Array(channels * rows * columns);
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        prepared[(channel * rows + y) * columns + x] = weightedSum(
          narrow, (channel * height + down[y].first) * columns + x, columns, down[y].weights);
      }
    }
  }
  return prepared;
}

// Converts prepared pixels to the type, the order of channels and the layout that the model file takes.
function feed(prepared, preprocessing) {
  const {dtype, layout, color_order: order, mean, std, input_size: [channels, rows, columns]} = preprocessing;
  const values = new (dtype === 'uint8' ? Uint8Array : Float32Array)(prepared.length);
  const size = rows * columns;
  for (let channel = 0; channel < channels; channel++) {
    const source = order === 'BGR' ? channels - 1 - channel : channel;
    const table = Array.from({length: 256}, (_, pixel) => dtype === 'uint8' ? pixel
      : Math.fround(Math.fround(pixel / 255) - Math.fround(mean[source])) / Math.fround(std[source]));
    for (let i = 0; i < size; i++) {
      values[layout === 'NCHW' ? channel * size + i : i * channels + channel] = table[prepared[source * size + i]];
    }
  }
  return {values, shape: layout === 'NCHW' ? [1, channels, rows, columns] : [1, rows, columns, channels]};
}

// The image on which the browser's results are compared with those of ONNX Runtime; see
// reference_image in nasnet_zoo/deploy/deployment.py.
function referenceImage([channels, rows, columns]) {
  return Uint8Array.from({length: channels * rows * columns}, (_, i) => Math.imul(i, 2654435761) >>> 24);
}
