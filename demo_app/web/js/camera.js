// The camera's frames, one at a time: the next is taken when the last has been answered.
import { fitted } from "./preprocess.js";

/** Start in ``stage``; ``frame(canvas)`` is awaited for each. Throws where there is no camera, or it is not allowed. */
export async function camera(stage, preprocessing, frame) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error("browsers give a page the camera for secure origins alone");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: "environment", width: { ideal: 640 } } });
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, srcObject: stream });
  stage.replaceChildren(video);
  await video.play();
  let running = true;
  (async () => {
    while (running) {
      await new Promise((resolve) => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(resolve) : requestAnimationFrame(resolve)));
      if (running && video.videoWidth) await frame(fitted(video, video.videoWidth, video.videoHeight, preprocessing));
    }
  })();
  return {
    stop: () => {
      running = false;
      for (const track of stream.getTracks()) track.stop();
    },
  };
}

/** A picture from a file, fitted. */
export async function picture(stage, file, preprocessing) {
  const image = await createImageBitmap(file);
  const canvas = fitted(image, image.width, image.height, preprocessing);
  const shown = Object.assign(document.createElement("canvas"), { width: preprocessing.width, height: preprocessing.height });
  shown.getContext("2d").drawImage(canvas, 0, 0);
  stage.replaceChildren(shown);
  return canvas;
}
