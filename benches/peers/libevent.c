/* An echo server on libevent: one loop, a bufferevent for each connection.
 *
 *     libevent [PORT]          PORT 0, the default, lets the system choose
 *
 * A reply is written at once, out of the buffer into which it was read. What the socket does not take moves on to the
 * bufferevent's output, and the connection is read again once that is written. A bufferevent reads 4 KiB at a time, whatever
 * it is told: larger messages come, and are answered, in pieces. */
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { READ_BYTES_MAX = 64 * 1024, BACKLOG = 4096 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void reply(struct bufferevent *connection, void *unused) {
    (void)unused;
    struct evbuffer *input = bufferevent_get_input(connection);
    /* A failure is told by the next read, or by the bufferevent's own write. */
    evbuffer_write(input, bufferevent_getfd(connection));
    if (evbuffer_get_length(input) == 0) return;
    bufferevent_disable(connection, EV_READ);
    bufferevent_write_buffer(connection, input);
}

static void resume(struct bufferevent *connection, void *unused) {
    (void)unused;
    bufferevent_enable(connection, EV_READ);
}

static void hang_up(struct bufferevent *connection, short what, void *unused) {
    (void)what, (void)unused;
    bufferevent_free(connection);
}

static void welcome(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *peer, int len, void *unused) {
    (void)peer, (void)len, (void)unused;
    struct event_base *base = evconnlistener_get_base(listener);
    struct bufferevent *connection = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (!connection) die("bufferevent_socket_new");
    bufferevent_set_max_single_read(connection, READ_BYTES_MAX);
    bufferevent_setcb(connection, reply, resume, hang_up, NULL);
    bufferevent_enable(connection, EV_READ | EV_WRITE);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int on = 1;
    signal(SIGPIPE, SIG_IGN);
    struct event_base *base = event_base_new();
    if (!base) die("event_base_new");
    unsigned options = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
    struct evconnlistener *listener =
        evconnlistener_new_bind(base, welcome, NULL, options, BACKLOG, (struct sockaddr *)&address, len);
    if (!listener) die("bind");
    evutil_socket_t fd = evconnlistener_get_fd(listener);
    /* Accepted sockets inherit it. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die("TCP_NODELAY");
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0) die("getsockname");
    printf("listening echo tcp://127.0.0.1:%d\nready\n", ntohs(address.sin_port));
    fflush(stdout);
    return event_base_dispatch(base) != 0;
}
