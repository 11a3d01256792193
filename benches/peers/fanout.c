/* fanout: the least that one room of a chat can cost on one thread.
 *
 * Every line that a connection sends goes to all other connections as it is. Lines are stored once, in one log; a
 * receiver is a place in the log, and gets all that is new to it with one send a turn, however many lines that are.
 *
 *     fanout [PORT]          PORT 0, the default, lets the system choose
 *
 *     wait ─► recv from all who are ready ─► log ─► one send to each receiver ─┐
 *       ▲                                                                      │
 *       └──────────────────────────────────────────────────────────────────────┘
 *
 *     the log    │ base … sent to all … │ run of A │ run of B │ run of A │ end
 *                                           ▲ a slow receiver's cursor
 *
 * Nobody is sent its own lines, as in a chat: the log is in runs, each of one sender, and who has sent lines is given
 * the runs of the others. Who has never sent one needs no look at the runs, and is sent the log from its cursor to the
 * end.
 *
 * A cursor counts bytes, so a send that is taken in part is continued there. Who does not read falls behind until the
 * log is full, and is then hung up on: a line is never lost or halved for those who stay.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    READ_BYTES_MAX = 64 * 1024,
    LINE_BYTES_MAX = 1024 * 1024,
    LOG_BYTES_MAX = 64 * 1024 * 1024,
    TURN_BYTES_MAX = LOG_BYTES_MAX / 4,
    EVENTS_MAX = 1024,
    DESCRIPTORS_MAX = 1 << 20,
    PIECES_MAX = 64,
    BACKLOG = 4096,
};

/* A connection is its descriptor; the pages of this table cost nothing until they are used. */
static struct connection {
    uint64_t cursor; /* what it has been sent of the log, its own lines counted as sent */
    char *partial;   /* the beginning of a line whose end has not come */
    uint32_t partial_len;
    uint32_t place;  /* in `members` */
    char has_spoken, is_blocked;
} connections[DESCRIPTORS_MAX];

static int members[DESCRIPTORS_MAX];
static uint32_t member_count, blocked_count;

/* Lines of one sender, up to `end`; they begin where the run before it ends, the first one at `base`. */
static struct run {
    uint64_t end;
    int sender;
} *runs;
static size_t run_count, runs_max;

/* `log` holds [base, end), in bytes since the start. */
static char log_bytes[LOG_BYTES_MAX];
static uint64_t base, end;

static int epoll, listener;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void interest(int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) < 0) die("epoll_ctl");
}

static int is_member(int fd) {
    return connections[fd].place < member_count && members[connections[fd].place] == fd;
}

static void hang_up(int fd) {
    struct connection *gone = &connections[fd];
    int last = members[--member_count];
    members[gone->place] = last;
    connections[last].place = gone->place;
    blocked_count -= gone->is_blocked;
    free(gone->partial);
    /* Its runs may be in the log still: whoever gets the descriptor next must not take them for its own. */
    for (size_t r = 0; gone->has_spoken && r < run_count; r++)
        if (runs[r].sender == fd) runs[r].sender = -1;
    memset(gone, 0, sizeof *gone);
    close(fd);
}

/* One accept per readiness: the listener is level-triggered. Who comes hears what is said from now on. */
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
    connections[fd].cursor = end;
    connections[fd].place = member_count;
    members[member_count++] = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

/* Makes room for one more read: what everybody has is dropped, and those are hung up on who hold on to too much. They
 * are slow ones, since one turn adds less than that. */
__attribute__((noinline, cold)) static void make_room(void) {
    uint64_t least;
    for (;;) {
        least = end;
        for (uint32_t m = 0; m < member_count; m++)
            if (connections[members[m]].cursor < least) least = connections[members[m]].cursor;
        if (end - least <= LOG_BYTES_MAX / 2) break;
        for (uint32_t m = member_count; m-- > 0;)
            if (connections[members[m]].cursor == least) hang_up(members[m]);
    }
    size_t dropped = 0;
    while (dropped < run_count && runs[dropped].end <= least) dropped++;
    run_count -= dropped;
    memmove(runs, runs + dropped, run_count * sizeof *runs);
    memmove(log_bytes, log_bytes + (least - base), end - least);
    base = least;
}

static void add_run(int sender) {
    if (run_count && runs[run_count - 1].sender == sender) {
        runs[run_count - 1].end = end;
        return;
    }
    if (run_count == runs_max) {
        runs_max = runs_max ? 2 * runs_max : 1024;
        runs = realloc(runs, runs_max * sizeof *runs);
        if (!runs) die("realloc");
    }
    runs[run_count++] = (struct run){.end = end, .sender = sender};
}

/* Reads once, right into the log. What has no end yet goes out of it again, until the rest comes. */
static void receive(int fd) {
    struct connection *sender = &connections[fd];
    if (end - base + LINE_BYTES_MAX + READ_BYTES_MAX > LOG_BYTES_MAX) make_room();
    char *at = log_bytes + (end - base);
    size_t held = sender->partial_len;
    ssize_t len = recv(fd, at + held, READ_BYTES_MAX, 0);
    if (len <= 0) {
        if (len == 0 || errno != EAGAIN) hang_up(fd);
        return;
    }
    if (held) memcpy(at, sender->partial, held);
    char *last = memrchr(at + held, '\n', len);
    size_t whole = last ? last + 1 - at : 0;
    size_t rest = held + len - whole;
    if (rest > LINE_BYTES_MAX) {
        hang_up(fd);
        return;
    }
    if (rest) {
        sender->partial = realloc(sender->partial, rest);
        if (!sender->partial) die("realloc");
        memcpy(sender->partial, at + whole, rest);
    }
    sender->partial_len = rest;
    if (whole) {
        sender->has_spoken = 1;
        end += whole;
        add_run(fd);
    }
}

/* The runs of others from a sender's cursor on, or some of them. */
static int gather(int fd, struct iovec *pieces) {
    uint64_t from = connections[fd].cursor;
    int count = 0;
    /* The first run that is not behind it. */
    size_t low = 0, high = run_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (runs[middle].end <= from) low = middle + 1;
        else high = middle;
    }
    for (size_t r = low; r < run_count && count < PIECES_MAX; r++) {
        if (runs[r].sender != fd)
            pieces[count++] = (struct iovec){log_bytes + (from - base), runs[r].end - from};
        else if (!count)
            connections[fd].cursor = runs[r].end;
        from = runs[r].end;
    }
    return count;
}

static ssize_t send_to_sender(int fd, size_t *offered) {
    struct iovec pieces[PIECES_MAX];
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = gather(fd, pieces)};
    *offered = 0;
    for (size_t p = 0; p < message.msg_iovlen; p++) *offered += pieces[p].iov_len;
    if (!*offered) return 0;
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    for (size_t p = 0, left = sent > 0 ? sent : 0; left; p++) {
        size_t of_piece = left < pieces[p].iov_len ? left : pieces[p].iov_len;
        /* Own lines between two pieces are jumped over: a cursor follows the pieces. */
        connections[fd].cursor = base + ((char *)pieces[p].iov_base - log_bytes) + of_piece;
        left -= of_piece;
    }
    return sent;
}

static void block(int fd) {
    connections[fd].is_blocked = 1;
    blocked_count++;
    /* It has to take what it lacks before it is read again. */
    interest(fd, EPOLLOUT);
}

/* Whether there is nothing left that it could be sent. A sender's cursor may stand before its own lines at the end. */
static int has_all(int fd) {
    struct iovec pieces[PIECES_MAX];
    if (connections[fd].cursor < end && connections[fd].has_spoken && gather(fd, pieces) == 0)
        connections[fd].cursor = end;
    return connections[fd].cursor == end;
}

/* Sends once what it lacks. */
static void bring_up(int fd) {
    struct connection *receiver = &connections[fd];
    size_t offered;
    ssize_t sent;
    if (receiver->has_spoken) {
        sent = send_to_sender(fd, &offered);
    } else {
        offered = end - receiver->cursor;
        sent = send(fd, log_bytes + (receiver->cursor - base), offered, MSG_NOSIGNAL);
        if (sent > 0) receiver->cursor += sent;
    }
    if (sent < 0 && errno != EAGAIN) {
        hang_up(fd);
        return;
    }
    if (sent == (ssize_t)offered && has_all(fd)) {
        if (receiver->is_blocked) {
            receiver->is_blocked = 0;
            blocked_count--;
            interest(fd, EPOLLIN);
        }
    } else if (!receiver->is_blocked) {
        block(fd);
    }
}

static void serve(void) {
    static struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        uint64_t before = end;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                welcome();
            } else if (!is_member(fd)) {
                /* Hung up on for the sake of another since it was told of. */
            } else if (connections[fd].is_blocked) {
                /* It is woken by its peer's reset as well: what it is, not the event, says what to do. */
                bring_up(fd);
            } else if (end - before < TURN_BYTES_MAX) {
                receive(fd);
            }
        }
        if (end == before) continue;
        /* From the last, because who is hung up on is replaced by the last. */
        for (uint32_t m = member_count; m-- > 0;)
            if (!connections[members[m]].is_blocked) bring_up(members[m]);
        if (!blocked_count) {
            base = end;
            run_count = 0;
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
    printf("listening lines tcp://127.0.0.1:%d\nready\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv) {
    const char *port_text = argc > 1 ? argv[1] : "0";
    char *rest;
    unsigned long port = strtoul(port_text, &rest, 10);
    if (argc > 2 || *port_text < '0' || *port_text > '9' || *rest || port > 65535) {
        fprintf(stderr, "usage: fanout [PORT]\n");
        return 2;
    }

    struct rlimit descriptors;
    if (getrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("getrlimit");
    descriptors.rlim_cur = descriptors.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("setrlimit");

    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) die("epoll_create1");
    listen_on(port);
    serve();
}
