/**
 * A program for python3, which can pass descriptors: it listens at the abstract names in the first line of its input, and
 * hands the write end of a pipe to each caller in place of a doorbell. The pipe is full, and its writer blocks. The program
 * ends when its input does.
 */
export const PIPES = `
import os, select, socket, sys
r, w = os.pipe()
os.set_blocking(w, False)
for piece in (b'x' * 4096, b'x'):
    try:
        while True: os.write(w, piece)
    except BlockingIOError: pass
os.set_blocking(w, True)
listening = []
for name in sys.stdin.readline().split():
    s = socket.socket(socket.AF_UNIX)
    try: s.bind(b'\\0' + name.encode())
    except OSError: continue
    s.listen(16)
    listening.append(s)
print('bound', len(listening), flush=True)
callers = []
while True:
    for s in select.select([*listening, sys.stdin], [], [])[0]:
        if s is sys.stdin: sys.exit()
        caller, _ = s.accept()
        try: socket.send_fds(caller, [b'\\0'], [w])
        except OSError: pass
        callers.append(caller)
`;
