// Socket.IO with its types, run as it is by a Node that strips them.
import { createServer, type Server as HttpServer } from 'node:http';
import { Server, type Socket } from 'socket.io';
import behaviour from './behaviour.js';
import pages from './pages.js';

interface Greeting {
  text: string;
  from: string;
}

const server: HttpServer = createServer(pages);
const io = new Server<{}, { welcome: (greeting: Greeting) => void }>(server);

io.on('connection', (socket: Socket) => {
  socket.emit('welcome', { text: 'hello', from: socket.id } satisfies Greeting);
});
behaviour(io);

server.listen(Number(process.env.PORT ?? 3000));
