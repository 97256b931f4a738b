use super::*;

mod fleet;
mod quality;

#[test]
fn a_request_is_retried_once_before_the_first_byte_and_never_for_the_callers_fault() {
    use Next::{Finish, Retry};
    let first = |ending| after_attempt(1, Progress::BeforeFirstByte, ending);
    assert_eq!([Ending::ConnectFailed, Ending::Broken, Ending::Busy, Ending::ServerError(500)].map(first), [Retry; 4]);
    assert_eq!([Ending::Answered, Ending::TimedOut, Ending::Cancelled].map(first), [Finish; 3]);
    assert_eq!(after_attempt(2, Progress::BeforeFirstByte, Ending::ConnectFailed), Finish);
    assert_eq!(after_attempt(1, Progress::Started, Ending::Broken), Finish);
    assert_eq!([400, 404, 413, 429].map(ending_of_status), [Ending::Answered; 4]);
    assert_eq!((ending_of_status(503), ending_of_status(502)), (Ending::Busy, Ending::ServerError(502)));
}
