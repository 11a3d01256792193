//! The responses of an HTTP server, read as strictly as a peer may.

/// One response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Reads the response at the front of `bytes`, to a HEAD request if `is_head`, and how many bytes it has; `None` if
    /// it is incomplete.
    ///
    /// # Panics
    /// If it is no response as it should be.
    pub fn read(bytes: &[u8], is_head: bool) -> Option<(Response, usize)> {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut fields);
        let head = match response.parse(bytes).expect("this is a response") {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return None,
        };
        assert_eq!(response.version, Some(1));
        let fields = response.headers.iter().map(|field| {
            let value = std::str::from_utf8(field.value).expect("fields are text");
            (field.name.to_ascii_lowercase(), value.to_owned())
        });
        let fields = fields.collect();
        let mut response = Response { status: response.code.unwrap_or(0), fields, body: Vec::new() };
        assert_eq!(response.field("transfer-encoding"), None);
        let length = response.field("content-length").expect("the length of the body is stated");
        let length: usize = length.parse().expect("the length is a number");
        let end = if is_head { head } else { head + length };
        response.body = bytes.get(head..end)?.to_vec();
        Some((response, end))
    }

    /// Reads all the responses, to requests of which those are HEAD for which `is_head` says so. What is incomplete at
    /// the end is left out.
    ///
    /// # Panics
    /// As [`Response::read`].
    pub fn read_all(mut bytes: &[u8], is_head: impl Fn(usize) -> bool) -> Vec<Response> {
        let mut responses = Vec::new();
        while let Some((response, len)) = Response::read(bytes, is_head(responses.len())) {
            responses.push(response);
            bytes = &bytes[len..];
        }
        responses
    }

    /// The value of a field.
    ///
    /// # Panics
    /// If it is there more than once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(other, _)| other == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert_eq!(found.next(), None, "{name} is there twice");
        value
    }

    /// Whether it says that the connection is closed behind it.
    pub fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }
}
