package main

var replicaMutants = []mutant{
	{
		"what the replica lacks is not looked up on the primary", "mdb/replica_errors.go",
		"errors.Is(err, ErrNoStream) || errors.Is(err, errGone)", "errors.Is(err, ErrNoStream)",
		client, "TestReplicaCheckpointAhead",
	},
	{
		"a subscription does not ask the primary after a notification", "mdb/replica_follow.go",
		"if !f.woken {", "if true {",
		client, "TestReplicaWalk",
	},
	{
		"a ring that ends a sleep is forgotten before the read", "internal/doorbell/sleeper.go",
		"		case <-s.rung:\n			s.woken = true\n", "		case <-s.rung:\n",
		client, "TestReplicaNotified",
	},
	{
		"after a loss, the replica of an old primary delivers again what was lost", "mdb/replica_follow.go",
		"split := q.from.Position <= f.source.split", "split := false && q.from.Position <= f.source.split",
		client, "TestReplicaOfOldPrimary",
	},
	{
		"a subscription sleeps although the replica owes it messages", "mdb/replica_follow.go",
		"			a.more = true // the handler need not wait for the others\n", "",
		client, "TestReplicaOwesTheRest|TestReplicaWalk",
	},
	{
		"a subscription waits for ever until the replica has a message", "mdb/replica_follow.go",
		"case time.Since(begun) > f.replica.patience:", "case time.Since(begun) > 1000*f.replica.patience:",
		client, "TestReplicaOwesTheRest",
	},
	{
		"reads use a promoted replica", "mdb/replica_join.go",
		`ParameterStatus("in_hot_standby") == "off"`, `ParameterStatus("in_hot_standby") == "promoted"`,
		client, "TestReplicaPromoted",
	},
	{
		"reads use a replica that has not caught up", "mdb/replica_join.go",
		"case err != nil || reached:", "case err != nil || reached || attempt > 0:",
		client, "TestReplicaReturnsCaughtUp",
	},
	{
		"a conflict is not remembered", "mdb/replica_conflicts.go",
		"c.until[stream] = now.Add(conflictTime)", "_ = now",
		client, "TestReplicaAfterConflict",
	},
	{
		"a read that ends in time says nothing about a frozen replica", "mdb/replica_errors.go",
		"		r.suspect() //nolint:contextcheck // the context has ended, or limits a wait for a connection\n		return false\n", "		return false\n",
		client, "TestReplicaFrozen",
	},
	{
		"a read that the replica cancels is not repeated on the primary", "mdb/replica_errors.go",
		"case classTransient, classInternal, classSetup:", "case classInternal, classSetup:",
		client, "TestReplicaReplayConflict",
	},
	{
		"a parked stream is replayed with what the replica has", "mdb/consumer/replay_statements.go",
		", mdb.FromPrimary())", ")",
		consumers, "TestReplica",
	},
	{
		"a message that the primary does not show yet is lost", "mdb/subscribe_final.go",
		"if err != nil || there[0] {", "if true || err != nil {",
		client, "TestReplicaAhead",
	},
	{
		"a stream ends before a message that the primary does not show yet", "mdb/subscribe_final.go",
		"if !r.isStream || !errors.As(err, new(*AheadError)) {", "if true || !errors.As(err, new(*AheadError)) {",
		client, "TestReplicaAhead",
	},
}
