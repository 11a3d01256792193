/* udp_floor: the least that an answer to a datagram can cost on one thread.
 *
 *     udp_floor [--batch N] [--epoll] [--time] [PORT]          PORT 0, the default, lets the system choose
 *
 * With a batch of N (default 64) it takes what has come, up to N datagrams, with one recvmmsg and answers them with one
 * sendmmsg. With a batch of 0 it makes one recvfrom and one sendto for each.
 *
 * A reply is the datagram, and with --time `[ctime]` before it, whose text is made once a second. It stands before the
 * place where the datagram is read to, so that nothing is moved.
 *
 * The socket blocks and there is no epoll: nothing that answers datagrams makes fewer calls. With --epoll it waits there,
 * edge-triggered, before it takes a batch, unless the batch before was full: what any server must do that has more than
 * this one socket.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum {
    DATAGRAM_BYTES_MAX = 64 * 1024,
    TIME_BYTES = 26, /* `[`, the 24 bytes of ctime without its newline, `]` */
    BATCH_MAX = 1024,
    RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024,
};

static struct message {
    char time[TIME_BYTES];
    char datagram[DATAGRAM_BYTES_MAX];
} messages[BATCH_MAX];

static int descriptor;
static int tells_time, waits_in_epoll;

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* The text of now. */
static const char *stamp(void) {
    static char text[TIME_BYTES];
    static time_t of;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != of) {
        char line[TIME_BYTES];
        of = now.tv_sec;
        ctime_r(&of, line);
        text[0] = '[';
        memcpy(text + 1, line, TIME_BYTES - 2);
        text[TIME_BYTES - 1] = ']';
    }
    return text;
}

/* What a send may fail for that is the peer's doing, and no reason to end. */
static int is_passing(void) {
    return errno == EINTR || errno == EAGAIN || errno == ECONNREFUSED || errno == EPERM || errno == EMSGSIZE;
}

static void serve_batches(unsigned batch) {
    static struct mmsghdr headers[BATCH_MAX];
    static struct iovec pieces[BATCH_MAX];
    static struct sockaddr_in peers[BATCH_MAX];
    for (unsigned m = 0; m < batch; m++) {
        headers[m].msg_hdr.msg_iov = &pieces[m];
        headers[m].msg_hdr.msg_iovlen = 1;
        headers[m].msg_hdr.msg_name = &peers[m];
        headers[m].msg_hdr.msg_namelen = sizeof peers[m];
        pieces[m] = (struct iovec){messages[m].datagram, DATAGRAM_BYTES_MAX};
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(EPOLL_CLOEXEC), has_more = 0;
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0) die("epoll");
    for (;;) {
        if (waits_in_epoll && !has_more && epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR) die("epoll_wait");
        int count = recvmmsg(descriptor, headers, batch, waits_in_epoll ? MSG_DONTWAIT : MSG_WAITFORONE, NULL);
        has_more = count == (int)batch;
        if (count < 0) {
            if (is_passing()) continue;
            die("recvmmsg");
        }
        const char *time = tells_time ? stamp() : NULL;
        for (int m = 0; m < count; m++) {
            pieces[m].iov_len = headers[m].msg_len;
            if (tells_time) {
                memcpy(messages[m].time, time, TIME_BYTES);
                pieces[m].iov_base = messages[m].time;
                pieces[m].iov_len += TIME_BYTES;
            }
        }
        for (int sent = 0; sent < count;) {
            int more = sendmmsg(descriptor, headers + sent, count - sent, 0);
            if (more < 0 && !is_passing()) die("sendmmsg");
            /* The one that could not be sent is left out. */
            sent += more > 0 ? more : 1;
        }
        for (int m = 0; m < count; m++) {
            pieces[m] = (struct iovec){messages[m].datagram, DATAGRAM_BYTES_MAX};
            headers[m].msg_hdr.msg_namelen = sizeof peers[m];
        }
    }
}

static void serve_one_by_one(void) {
    struct message *message = &messages[0];
    for (;;) {
        struct sockaddr_in peer;
        socklen_t peer_len = sizeof peer;
        ssize_t len = recvfrom(
            descriptor, message->datagram, DATAGRAM_BYTES_MAX, 0, (struct sockaddr *)&peer, &peer_len);
        if (len < 0) {
            if (is_passing()) continue;
            die("recvfrom");
        }
        const char *reply = message->datagram;
        if (tells_time) {
            memcpy(message->time, stamp(), TIME_BYTES);
            reply = message->time;
            len += TIME_BYTES;
        }
        if (sendto(descriptor, reply, len, 0, (struct sockaddr *)&peer, peer_len) < 0 && !is_passing())
            die("sendto");
    }
}

static void bind_to(unsigned short port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int bytes = RECEIVE_BUFFER_BYTES;
    descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) die("socket");
    /* As much as the system allows. */
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) < 0) die("SO_RCVBUF");
    if (bind(descriptor, (struct sockaddr *)&address, len) < 0) die("bind");
    if (getsockname(descriptor, (struct sockaddr *)&address, &len) < 0) die("getsockname");
    printf("listening %s udp://127.0.0.1:%d\nready\n", tells_time ? "time" : "echo", ntohs(address.sin_port));
    fflush(stdout);
}

/* A number from 0 to `most`, or the usage. */
static unsigned number(const char *text, unsigned long most) {
    char *end = NULL;
    unsigned long value = text && *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end || value > most) {
        fprintf(stderr, "usage: udp_floor [--batch N] [--epoll] [--time] [PORT]    N up to %d, 0 for one by one\n", BATCH_MAX);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    unsigned batch = 64, port = 0;
    (void)argc;
    for (char **argument = argv + 1; *argument; argument++) {
        if (strcmp(*argument, "--time") == 0) {
            tells_time = 1;
        } else if (strcmp(*argument, "--epoll") == 0) {
            waits_in_epoll = 1;
        } else if (strcmp(*argument, "--batch") == 0) {
            batch = number(argument[1], BATCH_MAX);
            argument++;
        } else {
            port = number(*argument, 65535);
        }
    }
    bind_to(port);
    if (batch) {
        serve_batches(batch);
    } else {
        serve_one_by_one();
    }
}
