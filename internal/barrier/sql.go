package barrier

// The statements of a barrier. Each is executed alone, in a transaction at the default
// isolation level or in any other: none of them reads with a snapshot what another transaction
// may change. Each returns one row.
const (
	// DrawnSQL returns which server this is, whether it is a standby, the last value that the
	// sequence of global positions has drawn, the greatest position in the table, and what of the
	// sequence a barrier relies on. A sequence that has drawn nothing yet has the next value in
	// last_value. The greatest position is not greater than the last value, which is read after the
	// statement's snapshot was taken, unless somebody has written without the sequence.
	//
	// The last two columns say which positions can be missing: those from the start on, a stride apart.
	DrawnSQL = `SELECT ` + thisServer + `, pg_is_in_recovery(),
	CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END, d.seqcache, d.seqcycle, d.seqincrement,
	coalesce((SELECT max(global_position) FROM message_store.messages), 0), d.seqstart, ` + StrideSQL + `
FROM message_store.messages_global_position_seq AS s, pg_catalog.pg_sequence AS d
WHERE d.seqrelid = 'message_store.messages_global_position_seq'::regclass`

	// HoldersSQL returns the transactions that hold locks such as write_message takes. A
	// session that is in no transaction, as one that holds a lock of its own, has the
	// transaction x/0.
	HoldersSQL = `SELECT coalesce(string_agg(DISTINCT virtualtransaction, ','), '') ` + locks

	// LeftSQL returns which server this is, and those of the transactions that still hold
	// such locks.
	LeftSQL = `SELECT ` + thisServer + `,
	(SELECT coalesce(string_agg(DISTINCT virtualtransaction, ','), '') ` + locks + `
		AND virtualtransaction = ANY (string_to_array($1::text, ',')))`

	// SessionsSQL describes transactions, for an operator.
	SessionsSQL = `SELECT coalesce(string_agg(DISTINCT CASE WHEN l.pid IS NOT NULL THEN 'the session with pid ' || l.pid
	ELSE 'the prepared transaction ' || coalesce(quote_literal(p.gid), l.virtualtransaction) END, ', '), '')
FROM pg_catalog.pg_locks AS l
LEFT JOIN pg_catalog.pg_locks AS x ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid'
LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON p.transaction = x.transactionid
WHERE l.virtualtransaction = ANY (string_to_array($1::text, ',')) AND l.locktype = 'advisory'`

	// StrideSQL is the difference between the positions of a sequence s whose definition is d, or 1 if setval has
	// moved it from those that it has drawn before.
	StrideSQL = `CASE WHEN d.seqincrement > 0 AND (s.last_value - d.seqstart) % greatest(d.seqincrement, 1) = 0 THEN d.seqincrement ELSE 1 END`

	// A crash resets the server's statistics, and does not end its main process.
	thisServer = `(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint +
	coalesce((extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)`

	locks = `FROM pg_catalog.pg_locks
	WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ExclusiveLock' AND granted AND virtualtransaction NOT LIKE '%/0'
		AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`
)
