// The suite's own origin server, on loopback only and on the port that the environment names. It does not hang up on
// idle connections while the suite pauses: that would race with the next request, whichever cache is tested. But it does
// after an answer in a transfer coding that does not tell its end (RFC 9112 §6.3).
// Arguments: the module of that server.
import net from 'node:net'
import { pathToFileURL } from 'node:url'

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port, ...rest) {
  this.keepAliveTimeout = 120_000
  this.on('request', (request, response) => response.on('finish', () => {
    if ((response.getHeader('transfer-encoding') ?? 'chunked') !== 'chunked') request.socket.end()
  }))
  return listen.call(this, { port: Number(port), host: '127.0.0.1' }, ...rest)
}
await import(pathToFileURL(process.argv[2]))
