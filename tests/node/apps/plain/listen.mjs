// Socket.IO alone as a module, told its port last.
import { Server } from 'socket.io';
import behaviour from './behaviour.js';

const io = new Server({ serveClient: true, cors: { origin: '*' } });
behaviour(io);

io.listen(Number(process.env.PORT ?? 3000));
