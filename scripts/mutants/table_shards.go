package main

const bell = "./internal/doorbell"

var shardMutants = []mutant{
	{
		"a probe goes to another shard than the connection", "internal/doorbell/probe.go",
		"notify(ctx, s.number, payload)", "notify(ctx, 0, payload)",
		bell, "TestShards",
	},
	{
		"an address is used without a probe", "internal/doorbell/listener.go",
		"case l.probe != \"\" && *payload == l.probe:", "case l.probe != \"\" && strings.HasPrefix(*payload, probePrefix):",
		bell, "TestShardMisplaced",
	},
	{
		"an answer that is older than the connection counts", "internal/doorbell/place.go",
		"case b.shards[n].changes != q.changes[n]:", "case false:",
		bell, "TestShardAnswerIsOld",
	},
	{
		"a category stays where it was while the connection was lost", "internal/doorbell/shard.go",
		"			c.unplace()\n		} else {", "			c.begin()\n		} else {",
		bell, "TestShardAnswerIsOld",
	},
	{
		"a lost connection turns off the categories of all shards", "internal/doorbell/shard.go",
		"	for _, c := range s.categories() {\n		if b.sharded {", "	for _, c := range b.categories {\n		if b.sharded {",
		bell, "TestShardLost",
	},
	{
		"the notification of a move is ignored", "internal/doorbell/listener.go",
		"case *payload == trigger.Placement:", "case false:",
		bell, "TestShardMoves",
	},
	{
		"messages without a ring are no reason to ask for the shard", "internal/doorbell/bell.go",
		"			b.askShards() // it may have moved\n", "",
		bell, "TestShardMoves",
	},
	{
		"a category that moves keeps its key on the old shard", "internal/doorbell/listener.go",
		"c == nil || c.shard != s || c.state != stateArmed {", "c == nil || c.state != stateArmed {",
		bell, "TestShardMoves",
	},
	{
		"a key that is granted after a move arms the category", "internal/doorbell/listener.go",
		"if c == nil || c.shard != s || !c.wanted {", "if c == nil || !c.wanted {",
		bell, "TestShardMovesMeanwhile",
	},
	{
		"categories wait although the proxy does not say where they are", "internal/doorbell/place.go",
		"			b.unknown(err)\n", "",
		bell, "TestShardsUnknown",
	},
	{
		"a busy pool makes all categories poll", "internal/doorbell/place.go",
		"	if errors.Is(err, ErrBusy) {\n		return\n	}\n", "	if errors.Is(err, context.Canceled) {\n		return\n	}\n",
		bell, "TestShardsUnknown",
	},
	{
		"a move goes on without the notification that proves a shard", "mdb/archive/move_proof.go",
		"err == nil && n.Payload == payload {", "n == nil || n.Payload != \"\" {",
		"./mdb/archive", "TestPLProxyMoveProves",
	},
}
