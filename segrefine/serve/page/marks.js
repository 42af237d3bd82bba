// Boxes and points: how they are drawn, and how the service is told of them.

export const rectangle = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.abs(x - u), Math.abs(y - v)];

/** Draws boxes as outlines, points on the object as a plus and points off it as a minus. */
export function drawMarks(context, boxes, points, colour) {
  const side = Math.max(context.canvas.width, context.canvas.height), width = Math.max(1, side / 150);
  for (const [from, to] of boxes) outline(context, colour, width, () => context.rect(...rectangle(from, to)));
  for (const [x, y, on] of points) {
    const radius = Math.max(4, side / 45), arm = 0.55 * radius;
    outline(context, colour, width, () => context.arc(x, y, radius, 0, 7));
    outline(context, colour, width, () => {
      context.moveTo(x - arm, y);
      context.lineTo(x + arm, y);
      if (on) { context.moveTo(x, y - arm); context.lineTo(x, y + arm); }
    });
  }
}

/** A coloured line on a dark one, so that it is seen on every picture. */
function outline(context, colour, width, path) {
  for (const [style, wide] of [["#000a", 2.2 * width], [colour, width]]) {
    context.beginPath();
    path();
    [context.strokeStyle, context.lineWidth] = [style, wide];
    context.stroke();
  }
}

/** Adds marks to a form, as `box=left,top,right,bottom` and `point=x,y,1`, in pixels. */
export function appendMarks(form, { boxes, points }) {
  for (const [from, to] of boxes) {
    const [x, y, width, height] = rectangle(from, to);
    form.append("box", [x, y, x + width, y + height].map(round).join());
  }
  for (const [x, y, on] of points) form.append("point", [round(x), round(y), on ? 1 : 0].join());
}

const round = (pixels) => Math.round(10 * pixels) / 10;
