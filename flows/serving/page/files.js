// Files that were dropped or chosen, folders included.

const IMAGES = /\.(png|jpe?g|jpe|bmp|dib|tiff?|webp|p[gpbn]m|jp2)$/i;

// Of a folder only what looks like an image; of single files all, so that a bad one gets its message.
export const ofFolder = (files) => [...files].filter((file) => IMAGES.test(file.name))
  .map((file) => ({ file, name: file.webkitRelativePath || file.name }));

export const chosen = (files) => [...files].map((file) => ({ file, name: file.name }));

export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  return (await Promise.all(entries.map((entry) => walked(entry, entry.isFile)))).flat();
}

async function walked(entry, always) {
  if (entry.isFile) {
    if (!always && !IMAGES.test(entry.name)) return [];
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader gives a hundred at a time, and none when it is through
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((each) => walked(each, false)))).flat();
}
