//! CreateStream (kinesis-contract 10.2).

use std::collections::BTreeMap;

use tristream_proto::domain::StreamName;
use tristream_proto::domain::limits::{RECORD_BYTES_DEFAULT, SHARDS_DEFAULT};

use super::validate::{Checks, NAME};
use super::{Api, CONTROL_DEADLINE, Error, Members, Reply, TextMap, shapes};
use crate::metadata::StreamMode;
use crate::router::{self, NewStream};

/// Labels of one stream; the request may hold more, the stream may not.
const TAGS_MAX: usize = 50;

struct Input {
    name: Option<String>,
    shard_count: Option<i64>,
    mode: Option<Option<String>>,
    tags: Option<TextMap>,
    warm_throughput: Option<i64>,
    record_kib_max: Option<i64>,
}

impl Input {
    fn take(mut input: Members) -> Result<Input, Error> {
        let mode = input.structure("StreamModeDetails")?;
        Ok(Input {
            name: input.text("StreamName")?,
            shard_count: input.integer("ShardCount")?,
            mode: mode.map(|mut details| details.text("StreamMode")).transpose()?,
            tags: input.map("Tags")?,
            warm_throughput: input.integer("WarmThroughputMiBps")?,
            record_kib_max: input.integer("MaxRecordSizeInKiB")?,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let mut checks = Checks::new();
        checks.required("streamName", &self.name);
        checks.text("streamName", self.name.as_deref(), NAME);
        checks.integer("shardCount", self.shard_count, 1, i64::MAX);
        if let Some(mode) = &self.mode {
            shapes::check_mode(&mut checks, mode);
        }
        if let Some(tags) = &self.tags {
            check_tags(&mut checks, tags);
        }
        checks.integer("warmThroughputMiBps", self.warm_throughput, 0, i64::MAX);
        checks.integer("maxRecordSizeInKiB", self.record_kib_max, 1024, 10_240);
        checks.finish()
    }

    /// The mode, and how many shards it starts with.
    fn shape(&self) -> Result<(StreamMode, u32), Error> {
        let mode = self.mode.as_ref().and_then(|mode| mode.as_deref());
        let count = self.shard_count.and_then(|count| u32::try_from(count).ok());
        match (mode, count) {
            (Some("ON_DEMAND"), _) | (None, None) => Ok((StreamMode::OnDemand, SHARDS_DEFAULT)),
            (_, Some(count)) => Ok((StreamMode::Provisioned, count)),
            (_, None) => Err(Error::InvalidArgument(
                "ShardCount must be provided for a stream in PROVISIONED mode.".to_owned(),
            )),
        }
    }
}

/// Creates a stream.
pub(super) async fn run(api: &Api, input: Members) -> Result<Reply, Error> {
    let input = Input::take(input)?;
    input.check()?;
    let (mode, shard_count) = input.shape()?;
    if input.warm_throughput.is_some_and(|mib| mib > 0) {
        return Err(shapes::no_warm_throughput());
    }
    let name = StreamName::try_from(input.name.unwrap_or_default())
        .map_err(|invalid| Error::InvalidArgument(invalid.to_string()))?;
    let tags = input.tags.unwrap_or_default();
    let tags: BTreeMap<String, String> =
        tags.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    if tags.len() > TAGS_MAX {
        return Err(Error::InvalidArgument(format!(
            "Failed to create stream {name} under account {} because a given stream cannot have \
             more than {TAGS_MAX} tags associated with it.",
            api.account
        )));
    }
    let record_bytes_max =
        input.record_kib_max.map_or(RECORD_BYTES_DEFAULT, |kib| kib as usize * 1024);
    let stream = NewStream { name: name.clone(), shard_count, mode, record_bytes_max, tags };
    let created = api.streams.create_stream(stream, CONTROL_DEADLINE).await;
    created.map(|()| Reply::default()).map_err(|error| match error {
        router::Error::AlreadyExists(stream) => {
            Error::StreamExists { stream, account: api.account.clone() }
        }
        router::Error::ShardLimit { open, limit } => api.shard_limit(open, limit, shard_count),
        other => other.into(),
    })
}

fn check_tags(checks: &mut Checks, tags: &TextMap) {
    const LENGTH: &str = "Member must have length";
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let pairs: Vec<String> =
        tags.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
    let shown = format!("{{{}}}", pairs.join(", "));
    checks.length("tags", tags.len(), &shown, 1, 200);
    if tags.iter().any(|(key, _)| key.is_empty() || key.chars().count() > 128) {
        let rule = format!(
            "Map keys must satisfy constraint: [{LENGTH} less than or equal to 128, \
             {LENGTH} greater than or equal to 1]"
        );
        checks.broken("tags", &shown, &rule);
    }
    if tags.iter().any(|(_, value)| text(value).chars().count() > 256) {
        let rule = format!(
            "Map value must satisfy constraint: [{LENGTH} less than or equal to 256, \
             {LENGTH} greater than or equal to 0]"
        );
        checks.broken("tags", &shown, &rule);
    }
}
