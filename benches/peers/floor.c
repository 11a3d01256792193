/* floor: the least that an epoll echo server can do on one thread.
 *
 * No limits, no deadlines, no counters: three system calls and little else. It is what a server engine is held
 * against, so it must be right (every byte back, in order, whatever the peer's window) and must stay this small.
 *
 *     floor [--phased] [PORT]          PORT 0, the default, lets the system choose
 *
 *     at once (default)                          phased
 *     wait ─► recv A, send A, recv B, send B ─┐  wait ─► recv A, recv B, … ─► send A, send B, … ─┐
 *       ▲                                     │    ▲                                             │
 *       └─────────────────────────────────────┘    └─────────────────────────────────────────────┘
 *
 * Level-triggered, so one recv per readiness is enough: what it leaves is told again, and no recv is made only to
 * hear EAGAIN. That gives 3 system calls per echo with one connection and 2 + 1/k with k ready per wait.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READ_BYTES_MAX = 64 * 1024,
    ARENA_BYTES = 1024 * 1024, /* phased: what one read phase may hold before it has to write */
    EVENTS_MAX = 1024,
    DESCRIPTORS_MAX = 1 << 20,
    BACKLOG = 4096,
};

/* The rest of a reply that the socket would not take. It exists only while the peer is slow. */
struct tail {
    size_t sent, len;
    char bytes[];
};

/* A connection is its descriptor. The tails are found by it; the pages of this table are untouched, and cost
 * nothing, until a peer is slow. */
static struct tail *tails[DESCRIPTORS_MAX];
static char arena[ARENA_BYTES];
static int epoll, listener;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void interest(int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) < 0) die("epoll_ctl");
}

static void hang_up(int fd) {
    free(tails[fd]);
    tails[fd] = NULL;
    close(fd);
}

/* One accept per readiness: the listener is level-triggered too. */
static void welcome(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
        die("accept4");
    }
    if (fd >= DESCRIPTORS_MAX) {
        close(fd);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

/* Keeps what the socket would not take of a reply, and waits for writability instead of input: the peer has to take
 * its replies before it is read again, so the order holds and a slow peer costs one buffer at most. Out of line, so
 * that the common case saves no registers for it. */
__attribute__((noinline, cold)) static void keep_tail(int fd, const char *bytes, size_t len, ssize_t sent) {
    if (sent < 0) {
        if (errno != EAGAIN) {
            hang_up(fd);
            return;
        }
        sent = 0;
    }
    struct tail *tail = malloc(sizeof *tail + len - sent);
    if (!tail) die("malloc");
    tail->sent = 0;
    tail->len = len - sent;
    memcpy(tail->bytes, bytes + sent, tail->len);
    tails[fd] = tail;
    interest(fd, EPOLLOUT);
}

static void reply(int fd, const char *bytes, size_t len) {
    ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
    if (sent != (ssize_t)len) keep_tail(fd, bytes, len, sent);
}

static void resume(int fd) {
    struct tail *tail = tails[fd];
    ssize_t sent = send(fd, tail->bytes + tail->sent, tail->len - tail->sent, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) hang_up(fd);
        return;
    }
    tail->sent += sent;
    if (tail->sent < tail->len) return;
    free(tail);
    tails[fd] = NULL;
    interest(fd, EPOLLIN);
}

/* Reads once: the bytes now at `buffer`, or 0 if there is nothing to answer. */
static size_t receive(int fd, char *buffer) {
    ssize_t len = recv(fd, buffer, READ_BYTES_MAX, 0);
    if (len > 0) return len;
    if (len == 0 || errno != EAGAIN) hang_up(fd);
    return 0;
}

static int wait_for(struct epoll_event *events) {
    int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    return ready;
}

/* A slow connection is woken by its peer's reset as well, with EPOLLERR or EPOLLHUP and perhaps no EPOLLOUT: whether
 * it has a tail, not the event, says what to do. Asking only when the event is unusual keeps the common case from
 * touching the table. */
static int is_slow(const struct epoll_event *event) {
    return event->events != EPOLLIN && tails[event->data.fd] != NULL;
}

static void serve_at_once(void) {
    static struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int ready = wait_for(events);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                welcome();
            } else if (is_slow(&events[i])) {
                resume(fd);
            } else {
                size_t len = receive(fd, arena);
                if (len) reply(fd, arena, len);
            }
        }
    }
}

static void serve_phased(void) {
    static struct epoll_event events[EVENTS_MAX];
    static struct { int fd; unsigned start, len; } replies[EVENTS_MAX];
    for (;;) {
        int ready = wait_for(events);
        for (int i = 0; i < ready;) {
            unsigned used = 0;
            int count = 0;
            /* An arena without room for one more whole read ends the phase early; the next phase goes on there. */
            for (; i < ready && used + READ_BYTES_MAX <= ARENA_BYTES; i++) {
                int fd = events[i].data.fd;
                if (fd == listener) {
                    welcome();
                } else if (is_slow(&events[i])) {
                    resume(fd);
                } else {
                    size_t len = receive(fd, arena + used);
                    if (len) {
                        replies[count].fd = fd;
                        replies[count].start = used;
                        replies[count++].len = len;
                        used += len;
                    }
                }
            }
            for (int r = 0; r < count; r++) reply(replies[r].fd, arena + replies[r].start, replies[r].len);
        }
    }
}

/* Binds, listens and announces. TCP_NODELAY is set here once: accepted sockets inherit it. */
static void listen_on(unsigned short port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0) die("socket");
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) die("SO_REUSEADDR");
    if (setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die("TCP_NODELAY");
    if (bind(listener, (struct sockaddr *)&address, len) < 0) die("bind");
    if (listen(listener, BACKLOG) < 0) die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &len) < 0) die("getsockname");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll_ctl");
    printf("listening echo tcp://127.0.0.1:%d\nready\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv) {
    int phased = argc > 1 && strcmp(argv[1], "--phased") == 0;
    const char *port_text = argc > 1 + phased ? argv[1 + phased] : "0";
    char *end;
    unsigned long port = strtoul(port_text, &end, 10);
    if (argc > 2 + phased || *port_text < '0' || *port_text > '9' || *end || port > 65535) {
        fprintf(stderr, "usage: floor [--phased] [PORT]\n");
        return 2;
    }

    struct rlimit descriptors;
    if (getrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("getrlimit");
    descriptors.rlim_cur = descriptors.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("setrlimit");

    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) die("epoll_create1");
    listen_on(port);
    if (phased) {
        serve_phased();
    } else {
        serve_at_once();
    }
}
