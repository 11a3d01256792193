/* floor: the least that an epoll echo server can do on one thread.
 *
 * No limits, no deadlines, no counters: three system calls and little else. It is what a server engine is held
 * against, so it must be right (every byte back, in order, whatever the peer's window) and must stay this small.
 *
 *     floor [--phased | --batched] [PORT]          PORT 0, the default, lets the system choose
 *
 *     at once (default)                          phased
 *     wait ─► recv A, send A, recv B, send B ─┐  wait ─► recv A, recv B, … ─► send A, send B, … ─┐
 *       ▲                                     │    ▲                                             │
 *       └─────────────────────────────────────┘    └─────────────────────────────────────────────┘
 *
 * batched: as phased, but the sends of a phase enter the kernel together, through io_uring, if they are BATCH_MIN or more.
 *
 * Level-triggered, so one recv per readiness is enough: what it leaves is told again, and no recv is made only to
 * hear EAGAIN. That gives 3 system calls per echo with one connection and 2 + 1/k with k ready per wait; batched 1 + 2/k, or
 * more where k is above BATCH_MAX.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    READ_BYTES_MAX = 64 * 1024,
    ARENA_BYTES = 1024 * 1024, /* phased: what one read phase may hold before it has to write */
    EVENTS_MAX = 1024,
    DESCRIPTORS_MAX = 1 << 20,
    BACKLOG = 4096,
    BATCH_MIN = 8, /* batched: fewer sends cost less one by one */
    BATCH_MAX = 64,
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

struct reply {
    int fd;
    unsigned start, len;
};

/* The two queues that are shared with the kernel. Both are empty between two batches. */
static struct {
    int fd;
    unsigned *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} ring;

static void open_ring(void) {
    struct io_uring_params params = {0};
    ring.fd = syscall(SYS_io_uring_setup, BATCH_MAX, &params);
    if (ring.fd < 0) die("io_uring_setup");
    size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof *ring.cqes;
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *sq = mmap(NULL, sq_bytes, protection, flags, ring.fd, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_bytes, protection, flags, ring.fd, IORING_OFF_CQ_RING);
    ring.sqes = mmap(NULL, params.sq_entries * sizeof *ring.sqes, protection, flags, ring.fd, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || ring.sqes == MAP_FAILED) die("mmap");
    ring.sq_tail = (unsigned *)(sq + params.sq_off.tail);
    ring.sq_mask = *(unsigned *)(sq + params.sq_off.ring_mask);
    ring.cq_head = (unsigned *)(cq + params.cq_off.head);
    ring.cq_tail = (unsigned *)(cq + params.cq_off.tail);
    ring.cq_mask = *(unsigned *)(cq + params.cq_off.ring_mask);
    ring.cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
    /* Entries are used in their order. */
    unsigned *array = (unsigned *)(sq + params.sq_off.array);
    for (unsigned i = 0; i < params.sq_entries; i++) array[i] = i;
}

/* None of these sends waits, so all are over when the call returns. */
static void reply_together(const struct reply *replies, unsigned count) {
    unsigned tail = *ring.sq_tail;
    for (unsigned r = 0; r < count; r++) {
        struct io_uring_sqe *sqe = &ring.sqes[tail++ & ring.sq_mask];
        memset(sqe, 0, sizeof *sqe);
        sqe->opcode = IORING_OP_SEND;
        sqe->fd = replies[r].fd;
        sqe->addr = (uintptr_t)(arena + replies[r].start);
        sqe->len = replies[r].len;
        sqe->msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        sqe->user_data = r;
    }
    __atomic_store_n(ring.sq_tail, tail, __ATOMIC_RELEASE);
    long taken = syscall(SYS_io_uring_enter, ring.fd, count, 0, 0, NULL, 0);
    unsigned head = *ring.cq_head, end = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
    if (taken != (long)count || end - head != count) die("io_uring_enter");
    for (; head != end; head++) {
        const struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
        const struct reply *reply = &replies[cqe->user_data];
        if (cqe->res == (int)reply->len) continue;
        errno = -cqe->res;
        keep_tail(reply->fd, arena + reply->start, reply->len, cqe->res < 0 ? -1 : cqe->res);
    }
    __atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
}

static void answer(const struct reply *replies, unsigned count, int batched) {
    unsigned done = 0;
    while (batched && count - done >= BATCH_MIN) {
        unsigned batch = count - done < BATCH_MAX ? count - done : BATCH_MAX;
        reply_together(replies + done, batch);
        done += batch;
    }
    for (; done < count; done++) reply(replies[done].fd, arena + replies[done].start, replies[done].len);
}

static void serve_phased(int batched) {
    static struct epoll_event events[EVENTS_MAX];
    static struct reply replies[EVENTS_MAX];
    for (;;) {
        int ready = wait_for(events);
        for (int i = 0; i < ready;) {
            unsigned used = 0;
            unsigned count = 0;
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
            answer(replies, count, batched);
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
    int batched = argc > 1 && strcmp(argv[1], "--batched") == 0;
    int phased = batched || (argc > 1 && strcmp(argv[1], "--phased") == 0);
    const char *port_text = argc > 1 + phased ? argv[1 + phased] : "0";
    char *end;
    unsigned long port = strtoul(port_text, &end, 10);
    if (argc > 2 + phased || *port_text < '0' || *port_text > '9' || *end || port > 65535) {
        fprintf(stderr, "usage: floor [--phased | --batched] [PORT]\n");
        return 2;
    }

    struct rlimit descriptors;
    if (getrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("getrlimit");
    descriptors.rlim_cur = descriptors.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("setrlimit");

    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) die("epoll_create1");
    /* Before it announces itself: where there is no io_uring it does not start. */
    if (batched) open_ring();
    listen_on(port);
    if (phased) {
        serve_phased(batched);
    } else {
        serve_at_once();
    }
}
