package mdb

// The statements that execute functions of a shard, which has one of each category. They replace statements with the
// same arguments, except that findOnShard also has the name of the stream.
const (
	writtenOnShard = `SELECT position, global_position, micros FROM message_store_shard.`
	placeOnShard   = `SELECT global_position, id, time FROM message_store_shard.category_head`
)

var (
	writeOnShard = newStatement("write_on_shard", writtenOnShard+
		`write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)`)
	writeSeveralOnShard = newStatement("write_several_on_shard", writtenOnShard+
		`write_messages($1::varchar, $2::varchar[], $3::varchar[], $4::text[], $5::text[], $6::bigint)`)
	findOnShard = newStatement("find_on_shard", `SELECT index, standby, stream, position, global_position, micros, same_type, same_data, emitted
FROM message_store_shard.find_messages($1::varchar, $2::text[], $3::text[], $4::text[])
ORDER BY index`)

	headOnShard   = newStatement("head_on_shard", `SELECT coalesce((SELECT global_position FROM message_store_shard.category_head($1::varchar)), 0)`)
	lastOnShard   = newStatement("last_on_shard", placeOnShard+`($1::varchar)`)
	beforeOnShard = newStatement("before_on_shard", placeOnShard+`($1::varchar, $2::bigint)`)

	lastInStreamOnShard = newStatement("last_in_stream_on_shard",
		`SELECT position, id::uuid, time FROM message_store.get_last_stream_message($1::varchar)`)

	shardCount = newStatement("shard_count", `SELECT message_store_proxy.shards()`)
)
