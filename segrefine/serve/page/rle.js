// COCO's compressed run lengths of a mask: runs go down the columns, background first.

export function encodeRle({ width, height, data }) {
  const counts = [];
  let inside = false, run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if ((data[4 * (y * width + x) + 3] > 127) !== inside) { counts.push(run); run = 0; inside = !inside; }
      run++;
    }
  }
  counts.push(run);
  return { size: [height, width], counts: counts.map((count, i) => encode(i > 2 ? count - counts[i - 2] : count)).join("") };
}

function encode(value) {
  let text = "";
  for (let more = true; more;) {
    const bits = value & 0x1f;
    value >>= 5;
    more = bits & 0x10 ? value !== -1 : value !== 0;
    text += String.fromCharCode(48 + bits + (more ? 0x20 : 0));
  }
  return text;
}
