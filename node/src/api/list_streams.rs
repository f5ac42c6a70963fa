//! ListStreams (kinesis-contract 10.20).

use std::ops::Bound;

use tristream_proto::domain::StreamName;
use tristream_proto::domain::limits::LIST_STREAMS_DEFAULT;

use super::validate::{Checks, NAME, NEXT_TOKEN};
use super::{Api, Error, Members, Reply, Value, page_token, shapes};

const OPERATION: &str = "ListStreams";

/// Lists the streams of the account by name, in whatever state.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let limit = input.integer("Limit")?;
    let after = input.text("ExclusiveStartStreamName")?;
    let token = input.text("NextToken")?;
    let mut checks = Checks::new();
    checks.integer("limit", limit, 1, 10_000);
    checks.text("exclusiveStartStreamName", after.as_deref(), NAME);
    checks.text("nextToken", token.as_deref(), NEXT_TOKEN);
    checks.finish()?;

    let after: Option<StreamName> = match (after, token) {
        (Some(_), Some(_)) => {
            return Err(Error::InvalidArgument(
                "NextToken and ExclusiveStartStreamName cannot be provided together.".to_owned(),
            ));
        }
        (None, Some(token)) => Some(page_token::open(api, OPERATION, &token)?),
        // The model's pattern makes it a name.
        (after, None) => after.and_then(|name| name.parse().ok()),
    };
    let count = limit.map_or(LIST_STREAMS_DEFAULT, |limit| limit as usize);
    let view = api.streams.fresh_view().await.view;
    let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = view.streams.range::<StreamName, _>((from, Bound::Unbounded));
    let page: Vec<_> = rest.by_ref().take(count).map(|(_, stream)| stream).collect();
    let more = rest.next().is_some();
    let token = match page.last() {
        Some(last) if more => Some(page_token::seal(api, OPERATION, &last.name)?),
        _ => None,
    };
    let names: Vec<Value> = page.iter().map(|stream| stream.name.as_str().into()).collect();
    let summaries: Vec<Value> =
        page.iter().map(|stream| shapes::head(api, stream).into()).collect();
    Ok(Members::new()
        .with("StreamNames", names)
        .with("HasMoreStreams", more)
        .with_some("NextToken", token)
        .with("StreamSummaries", summaries)
        .into())
}
