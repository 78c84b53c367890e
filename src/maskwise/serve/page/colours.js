// Colours of masks. Of Okabe and Ito, told apart with any kind of colour blindness.

const PALETTE = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
/** From a mask that hardly fits to one that fits well. */
const RAMP = [[0.4, [213, 94, 0]], [0.6, [240, 170, 40]], [0.75, [225, 218, 90]], [0.88, [60, 190, 160]], [1, [40, 140, 220]]];

/** Red, green and blue of an instance. */
export function colour(one, by) {
  if (by === "quality") return ramp(one.quality);
  return PALETTE[(by === "class" ? one.label : one.index) % PALETTE.length];
}

function ramp(value) {
  const next = RAMP.findIndex(([at]) => value <= at);
  if (next <= 0) return RAMP[next < 0 ? RAMP.length - 1 : 0][1];
  const [low, from] = RAMP[next - 1], [high, to] = RAMP[next], part = (value - low) / (high - low);
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * part));
}

export const css = ([r, g, b], opacity = 1) => `rgb(${r} ${g} ${b} / ${opacity})`;
