use super::*;

mod fleet;
mod quality;

#[test]
fn a_request_is_retried_once_before_the_first_byte_and_never_for_the_callers_fault() {
    use Next::{Finish, Retry};
    let after = |reached, unreached, ending| {
        let attempts = Attempts { reached, unreached, is_one_left: true };
        after_attempt(attempts, Progress::BeforeFirstByte, ending)
    };
    let first = |ending| if ending == Ending::ConnectFailed { after(0, 1, ending) } else { after(1, 0, ending) };
    assert_eq!([Ending::ConnectFailed, Ending::Broken, Ending::Busy, Ending::ServerError(500)].map(first), [Retry; 4]);
    assert_eq!([Ending::Answered, Ending::TimedOut, Ending::Cancelled].map(first), [Finish; 3]);
    assert_eq!([1, 2, 3, 4].map(|n| after(0, n, Ending::ConnectFailed)), [Retry, Retry, Retry, Finish]);
    assert_eq!(
        [after(1, 1, Ending::Broken), after(2, 0, Ending::Broken), after(2, 1, Ending::ConnectFailed)],
        [Retry, Finish, Finish]
    );
    let alone = |unreached| {
        let attempts = Attempts { reached: 0, unreached, is_one_left: false };
        after_attempt(attempts, Progress::BeforeFirstByte, Ending::ConnectFailed)
    };
    assert_eq!([alone(1), alone(2)], [Retry, Finish], "the only one is asked again once");
    let attempts = Attempts { reached: 1, ..Attempts::default() };
    assert_eq!(after_attempt(attempts, Progress::Started, Ending::Broken), Finish);
    assert_eq!([400, 404, 413, 429].map(ending_of_status), [Ending::Answered; 4]);
    assert_eq!((ending_of_status(503), ending_of_status(502)), (Ending::Busy, Ending::ServerError(502)));
}
