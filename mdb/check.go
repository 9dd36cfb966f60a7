package mdb

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/inspection"
)

// A CheckOption configures [Store.Check].
type CheckOption interface{ check(*checkConfig) }

type checkConfig struct{ readOnly bool }

type checkOption func(*checkConfig)

func (o checkOption) check(c *checkConfig) { o(c) }

// ReadOnly makes [Store.Check] accept that the role lacks the privileges for writing, and
// that the server rejects writes. Use it in a program that only reads.
func ReadOnly() CheckOption {
	return checkOption(func(c *checkConfig) { c.readOnly = true })
}

// Check reports whether the database, the role and the connection are set up correctly for
// Message DB. It returns nil if they are. Otherwise the error joins a [*SetupError], with
// a remedy, for each problem:
//
//   - Message DB is not installed, or its version is too old for a feature of this
//     package;
//   - the role lacks a privilege, or does not inherit it, or the role message_store is
//     missing or lacks it too;
//   - the installed functions depend on the search path, and that does not begin with
//     message_store, or finds another table messages or functions of the same names first;
//   - the server rejects writes, because it is a standby or by default_transaction_read_only;
//   - acknowledged messages may be lost in a crash, because the table or the sequence is
//     unlogged, or because fsync, full_page_writes or synchronous_commit is off. It accepts
//     these settings if the setting message_store.allow_loss is on;
//   - the server has synchronous standbys, and a cancelled wait for them would not be noticed,
//     because the pool lacks the OnNotice of [Configure] or client_min_messages is error;
//   - the next global position is not higher than those in the table, as after an import or
//     a switch to a logical replica, is less than 1, or is near the maximum of the sequence;
//   - the sequence of global positions has a cache, descends, or has CYCLE, so that
//     subscriptions miss messages, or the table does not use it, or it has left the positions of
//     the shard, which schema.InstallShard of package mdb/schema has given it;
//   - an index is missing, invalid, or not the one of Message DB, or a collation has changed
//     since the indexes were built, or is not deterministic;
//   - a column of the table is missing, has another type, or is NOT NULL without a default;
//   - the table is a partitioned or foreign table or a view, another table inherits from it, or
//     row-level security or a rule hides or rejects messages;
//   - a trigger returns NULL before an insert, so that a message whose write succeeds may not be
//     stored;
//   - a constraint or unique index that Message DB does not have rejects some writes;
//   - write_message or acquire_lock does not lock the category;
//   - a subscription of logical replication writes to the table, and so does the program;
//   - the encoding of the database or the connection is not UTF-8, times cannot be read
//     because of DateStyle, or batches are rejected because of array_nulls;
//   - the database is near the wraparound of transaction IDs or multixact IDs;
//   - conditions are on for the connection, or run with the privileges of another role;
//   - another role owns or can create what the callers of Message DB execute;
//   - the NOTIFY trigger is installed, but disabled;
//   - the pool has no ConnectTimeout, which [Configure] sets;
//   - the replica of [WithReplica] cannot be asked, is no standby, or is that of another server, or
//     its pool has no ConnectTimeout;
//   - write_message is a function of PL/Proxy, and the proxy lacks the functions that mdb proxy-sql
//     prints, so that Check sees nothing of the shards: that error wraps [ErrProxied].
//
// Through a proxy with these functions, Check looks at each shard, on the connection of the proxy, and
// names the number of the shard in each problem. It also reports a shard that cannot be reached, that lacks the functions, or
// whose global positions are not those of its number.
//
// It needs no privileges of its own. It does not read messages, except for the highest
// global position. It uses one connection, and assumes that the others are configured alike.
func (s *Store) Check(ctx context.Context, opts ...CheckOption) error {
	var config checkConfig
	for _, opt := range opts {
		opt.check(&config)
	}
	var problems []error
	if s.replica != nil {
		if err := s.replica.check(ctx); err != nil {
			problems = append(problems, err)
		}
	}
	conn, err := acquire(ctx, s.pool)
	if err != nil {
		return explain("check the database", err)
	}
	defer conn.Release()

	// Both modes leave no prepared statements on the connection. The simple protocol is only
	// for servers that know no other.
	mode := lookMode(s.config.execMode)
	text := s.config.execMode == pgx.QueryExecModeExec || s.config.execMode == pgx.QueryExecModeSimpleProtocol
	inspect := func(sql string, args ...any) (complete bool, err error) {
		var problem *string
		var remedy string
		rows, err := conn.Query(ctx, sql, slices.Concat(mode, args)...)
		if err != nil {
			return false, err
		}
		_, err = pgx.ForEachRow(rows, []any{&problem, &remedy}, func() error {
			if problem == nil {
				complete = true
			} else {
				problems = append(problems, &SetupError{Problem: *problem, Remedy: remedy})
			}
			return nil
		})
		return complete, err
	}
	if s.pool.Config().ConnConfig.ConnectTimeout <= 0 {
		problems = append(problems, &SetupError{
			Problem: "the pool has no connect timeout, so a host that does not answer takes each of its connections for two minutes",
			Remedy:  "prepare the pool's configuration with Configure, or set connect_timeout in the connection string, such as connect_timeout=2",
		})
	}
	path, err := lookAtPath(ctx, conn, mode...)
	if pathErr := path.problem(); pathErr != nil {
		problems = append(problems, pathErr)
	}
	switch proxyKindOf(&path) {
	case plainProxy:
		return errors.Join(append(problems, errProxiedCheck)...)
	case shardProxy:
		ofShards, err := checkShards(ctx, conn.Conn(), s.config.execMode, config.readOnly)
		if err != nil {
			return explain("check the shards", contextError(ctx, err))
		}
		return errors.Join(append(problems, ofShards...)...)
	}
	complete := false
	if err == nil {
		complete, err = inspect(inspection.Check, config.readOnly, text, receivesNotices(conn.Conn()))
	}
	if err == nil && complete {
		_, err = inspect(inspection.Sequence)
	}
	if err == nil && serverVersion(conn.Conn()) >= 15 {
		_, err = inspect(inspection.Collation)
	}
	if err != nil {
		return explain("check the database", contextError(ctx, err))
	}
	return errors.Join(problems...)
}

// serverVersion returns the major version of the server, or 0.
func serverVersion(conn *pgx.Conn) int {
	reported := conn.PgConn().ParameterStatus("server_version")
	digits := strings.IndexFunc(reported, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(reported)
	}
	version, err := strconv.Atoi(reported[:digits])
	if err != nil {
		return 0
	}
	return version
}
