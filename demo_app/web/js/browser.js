// What this browser says of itself. The server reads it; it decides nothing here but the number of threads.
/** The message of edgepack.serve.messages.Browser. */
export async function browser() {
  const hints = await highEntropy();
  const brand = hints.fullVersionList?.find((each) => !/not.?a.?brand|chromium/i.test(each.brand));
  return {
    user_agent: navigator.userAgent.slice(0, 1000),
    brand: (brand?.brand ?? "").slice(0, 200),
    version: (brand?.version ?? "").slice(0, 200),
    model: (hints.model ?? "").slice(0, 200),
    platform: [hints.platform, hints.platformVersion].filter(Boolean).join(" ").slice(0, 200),
    mobile: Boolean(hints.mobile),
    automated: Boolean(navigator.webdriver),
    cores: navigator.hardwareConcurrency ?? 0,
    memory_gib: navigator.deviceMemory ?? 0,
    secure: isSecureContext,
    isolated: crossOriginIsolated,
  };
}

async function highEntropy() {
  try {
    return (await navigator.userAgentData?.getHighEntropyValues(["model", "platformVersion", "fullVersionList"])) ?? {};
  } catch {
    return {};
  }
}

/** Threads of the runtimes: those asked for where memory can be shared, one otherwise. */
export function threads(asked) {
  return crossOriginIsolated ? Math.max(1, Math.min(asked, navigator.hardwareConcurrency ?? 1)) : 1;
}
