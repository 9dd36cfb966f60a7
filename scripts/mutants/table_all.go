package main

// Rules of the barrier's SQL are broken by TestMutants of internal/barrier.
var allMutants = []mutant{
	{
		"a page of all categories passes over a gap", "mdb/read_all_step.go",
		"if p-1 > a.final.Position && a.drawn.missing(before, p) {", "if p < before {",
		client, "TestAllWaits",
	},
	{
		"a filtered read of all categories looks at what is not final", "mdb/read_all_step.go",
		"	return &r.all.final.Position\n", "	beyond := r.all.final.Position + 1<<40\n	return &beyond\n",
		client, "TestAllWaits",
	},
	{
		"a page of all categories counts what was final on another server", "mdb/read_all_step.go",
		"	case a.final.Server != 0 && (a.drawn.server != a.final.Server || a.drawn.last < a.final.Position):\n", "	case a.drawn.server < 0:\n",
		client, "TestAllCrash",
	},
	{
		"a crash does not end what is final", "internal/barrier/sql.go",
		"coalesce((extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)", "0",
		client, "TestAllCrash",
	},
	{
		"a read with a filter waits for a transaction before what comes before that", "mdb/read_all_step.go",
		"d.server != a.emptyTo.Server, run <= after && more:", "d.server != a.emptyTo.Server, more:",
		client, "TestAllWaits",
	},
	{
		"a subscription to all categories knows its last message only", "mdb/read_all_step.go",
		"	case len(a.latest) > 0 && a.missing:\n", "	case a.drawn.server < 0:\n",
		client, "TestAllForkOfOvertaken/all, false|TestAllForkOfOvertaken/all, true",
	},
	{
		"a checkpoint of all categories knows the messages of no category", "mdb/checkpoint_all.go",
		"b = binary.AppendUvarint(b, uint64(len(c.Latest())))\n", "b = append(b, 0)\n	if true {\n		return b\n	}\n",
		client, "TestAllForkOfOvertaken/all, true",
	},
	{
		"after a loss in another category a subscription to all categories goes back to before it", "mdb/subscribe_source.go",
		"if there[i] || len(rest) > 0 && s.kind != kindAll {", "if there[i] && !slices.Contains(there[i:], false) || len(rest) > 0 && s.kind != kindAll {",
		client, "TestAllForkOfOvertaken/all, false",
	},
}
