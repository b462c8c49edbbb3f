// Runs the suite and prints, as JSON, what each test is and how it ended.
// Arguments: the directory of the suite, where its client is in there, the URL of the cache ('' runs nothing).
import { pathToFileURL } from 'node:url'
import path from 'node:path'

const [suite, client, base] = process.argv.slice(2)
const load = (...parts) => import(pathToFileURL(path.join(suite, ...parts)))

const { default: suites } = await load('tests', 'index.mjs')
const { runTests, getResults } = await load(client, 'runner.mjs')
const tests = suites.flatMap(each => each.tests.map(test => ({
  id: test.id,
  suite: each.id,
  kind: test.kind ?? 'required',
  depends_on: test.depends_on ?? [],
  browser_only: test.browser_only === true
})))
if (base !== '') {
  // A suite older than the client in Node.js brings one, and takes it as an argument. It also runs a hundred tests at
  // once, of which some allow two seconds for what a busy machine may take longer for; fewer at once is kinder.
  if (runTests.length > 3) {
    const brought = path.join(suite, '..', 'node-fetch', 'lib', 'index.mjs')
    const { default: fetch } = await import(pathToFileURL(brought))
    await runTests(suites, fetch, false, base, 40)
  } else {
    await runTests(suites, false, base)
  }
}
process.stdout.write(`\n${JSON.stringify({ tests, results: base === '' ? {} : getResults() })}\n`)
