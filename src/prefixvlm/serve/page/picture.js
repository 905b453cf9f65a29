// The image: read and made smaller in the browser, shown, and the heat map over it.

export const MAX_SIDE = 1024; // pixels; encoders see 224 to 448 of them
const SENT_AS_IS = ["image/png", "image/jpeg", "image/webp"];
const MAX_BYTES = 4e6;
const RAMP = [[94, 60, 190], [214, 0, 108], [255, 150, 20]]; // colours of the values 0, 1/2 and 1
let shown = null; // the image
const element = (id) => document.getElementById(id);

/** Return {url, name, width, height} of a file: a data: URL of the upright image. Throws Error with one sentence. */
export async function read(file) {
  const name = file.name || "the pasted image";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }); // upright by EXIF
  } catch {
    throw new Error(`This browser cannot read ${name} as an image; give a PNG, JPEG or WebP.`);
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const asIs = scale === 1 && SENT_AS_IS.includes(file.type) && file.size <= MAX_BYTES;
  const url = asIs ? await dataUrl(file) : redrawn(bitmap, width, height, file.type === "image/jpeg");
  bitmap.close();
  return { url, name, width, height };
}

function redrawn(bitmap, width, height, isPhoto) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return isPhoto ? canvas.toDataURL("image/jpeg", 0.92) : canvas.toDataURL("image/png"); // PNG keeps transparency
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} could not be read.`));
    reader.readAsDataURL(file);
  });
}

export function show(image) {
  shown = image;
  element("choose").hidden = true;
  element("shown").hidden = false;
  element("preview").alt = image.name;
  hideMap();
}

function draw({ url, width, height }) {
  element("picture").style.setProperty("--ratio", width / height);
  element("picture").classList.toggle("tiny", Math.max(shown.width, shown.height) < 200);
  if (element("preview").src !== url) element("preview").src = url;
}

/** Draw a map [rows][columns] of 0 to 1 over the image.
 *
 * token: the word that it is of. picture: {url, width, height} of what the encoder sees, which the map covers: often a
 * square out of the middle. */
export function showMap(map, token, picture) {
  draw(picture ?? shown);
  const canvas = element("map");
  canvas.height = map.length;
  canvas.width = map[0].length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  map.flat().forEach((value, number) => {
    const part = Math.min(1, Math.max(0, value)) * 2;
    const [low, high] = part < 1 ? RAMP : RAMP.slice(1);
    const colour = low.map((from, channel) => from + (high[channel] - from) * (part % 1 || (part === 2 ? 1 : 0)));
    pixels.data.set([...colour, 200 * Math.min(1, part * 0.6)], 4 * number);
  });
  context.putImageData(pixels, 0, 0);
  canvas.hidden = false;
  const text = `Heat map of “${token}”, strongest ${place(map)}`;
  canvas.setAttribute("aria-label", text);
  element("about").textContent = text;
  return text;
}

export function hideMap() {
  if (!shown) return;
  draw(shown);
  element("map").hidden = true;
  element("about").textContent = element("preview").alt;
}

function place(map) {
  const values = map.flat();
  const largest = values.indexOf(Math.max(...values));
  const row = (Math.floor(largest / map[0].length) + 0.5) / map.length;
  const column = ((largest % map[0].length) + 0.5) / map[0].length;
  const third = (share, names) => names[Math.min(2, Math.floor(share * 3))];
  const words = [third(row, ["at the top", "", "at the bottom"]), third(column, ["on the left", "", "on the right"])];
  return words.filter(Boolean).join(", ") || "in the middle";
}
