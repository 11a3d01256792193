/* An echo server on Boost.Asio: one thread, and told so, which spares it its locks.
 *
 *     asio [PORT]          PORT 0, the default, lets the system choose
 */
#include <boost/asio.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t READ_BYTES_MAX = 64 * 1024;
constexpr int BACKLOG = 4096;

/* It lives as long as something is asked of its socket. */
class connection : public std::enable_shared_from_this<connection> {
  public:
    explicit connection(tcp::socket socket) : socket(std::move(socket)), buffer(new char[READ_BYTES_MAX]) {}

    void read() {
        socket.async_read_some(asio::buffer(buffer.get(), READ_BYTES_MAX),
                               [self = shared_from_this()](error_code error, std::size_t len) {
                                   if (!error) self->reply(len);
                               });
    }

  private:
    void reply(std::size_t len) {
        asio::async_write(socket, asio::buffer(buffer.get(), len),
                          [self = shared_from_this()](error_code error, std::size_t) {
                              if (!error) self->read();
                          });
    }

    tcp::socket socket;
    std::unique_ptr<char[]> buffer; /* not zeroed: pages that no read has reached cost nothing */
};

static void welcome(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](error_code error, tcp::socket socket) {
        if (!error) {
            error_code gone;
            socket.set_option(tcp::no_delay(true), gone);
            std::make_shared<connection>(std::move(socket))->read();
        }
        welcome(acceptor);
    });
}

int main(int argc, char **argv) {
    asio::io_context loop(BOOST_ASIO_CONCURRENCY_HINT_UNSAFE);
    unsigned short port = argc > 1 ? std::atoi(argv[1]) : 0;
    tcp::acceptor acceptor(loop, tcp::v4());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind({asio::ip::address_v4::loopback(), port});
    acceptor.listen(BACKLOG);
    std::printf("listening echo tcp://127.0.0.1:%d\nready\n", acceptor.local_endpoint().port());
    std::fflush(stdout);
    welcome(acceptor);
    loop.run();
}
