//! What is said on the broker's socket, in both directions. What is accepted
//! has one form, and no request is over report data of somebody's choice.
#![no_main]

use countersign_quoting::broker::{Request, Response};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode(), data);
        if let Request::Evidence(subject) = request {
            let report_data = subject.report_data().as_bytes();
            assert!(!data.windows(report_data.len()).any(|window| window == report_data));
        }
    }
    if let Ok(response) = Response::decode(data) {
        assert_eq!(response.encode(), data);
    }
});
