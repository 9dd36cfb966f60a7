package main

const client = "./mdb"

var clientMutants = []mutant{
	{
		"a read does not look for the last known message", "mdb/read_page.go",
		"if err == nil && r.anchored && r.found != r.anchor {", "if false {",
		client, "TestFork/procedures, plain|TestFork/direct, plain",
	},
	{
		"a read by a procedure does not look for the last known message, and begins after it", "mdb/read_page.go",
		"if err == nil && r.anchored && r.found != r.anchor {", "if err == nil && r.anchored && r.inclusive && r.found != r.anchor {",
		client, "TestFork/procedures, plain",
	},
	{
		"a read looks for the last known message only after an error", "mdb/read_page.go",
		"func (r *pageRead) checkAnchor(err error) error {\n	if err == nil && r.anchored && r.found != r.anchor {",
		`var doubted, turn = make(map[*pageRead]bool), make(chan struct{}, 1)

func (r *pageRead) checkAnchor(err error) error {
	turn <- struct{}{}
	defer func() { <-turn }()
	if err != nil {
		doubted[r] = true
	}
	if err == nil && r.anchored && r.found != r.anchor && doubted[r] {`,
		client, "TestFork/procedures, plain",
	},
	{
		"a filtered read compares the last known message with the head", "mdb/read_page.go",
		"if err == nil && r.anchored && r.found != r.anchor {",
		"if err == nil && r.anchored && (r.withHead && r.head.Position < r.anchor.Position || !r.withHead && r.found != r.anchor) {",
		client, "TestFork/procedures, correlation",
	},
	{
		"a filtered read looks for the last message that the filter selects", "mdb/subscribe_source.go",
		"page.End = page.End.Advance(1, head)", "page.End = page.End.Past(a.head.Position)",
		client, "TestForkOfForeignMessages/procedures, correlation",
	},
	{
		"a read looks for the last known message before it reads the page", "mdb/read_page.go",
		"	steps = append(steps, step{st: st, read: r.readRows, args: args})\n	if look {\n		steps = append(steps, r.lookStep())\n	}\n",
		"	if look {\n		steps = append(steps, r.lookStep())\n	}\n	steps = append(steps, step{st: st, read: r.readRows, args: args})\n",
		client, "TestForkBeforeThePage",
	},
	{
		"a read takes a message of another time for the last known one", "mdb/read_page.go",
		"if err == nil && r.anchored && r.found != r.anchor {",
		"if err == nil && r.anchored && (r.found.Position != r.anchor.Position || r.found.ID != r.anchor.ID) {",
		client, "TestForkOfTheSameID/procedures, plain|TestForkOfTheSameID/direct, plain",
	},
	{
		"a fork does not compare the times of known messages", "mdb/subscribe_anchor.go",
		"if i, ok := index[a.Position]; ok && known[i] == a {", "if i, ok := index[a.Position]; ok && known[i].ID == a.ID {",
		client, "TestForkOfTheSameID/procedures, plain",
	},
	{
		"the progress within a page is a position alone", "mdb/subscribe_loop.go",
		"	c = c.Advance(len(messages), func(i int) anchor { return s.anchor(&messages[i]) })\n",
		"	if n := len(messages); n > 0 {\n		return c.Past(s.position(&messages[n-1]))\n	}\n	return c\n",
		client, "TestProgressIdentifiesMessages/procedures, plain|TestProgressIdentifiesMessages/procedures, workers",
	},
	{
		"what has arrived of a page is kept if its last message is there", "mdb/subscribe_read.go",
		"if !there[0] || !there[1] {", "if !there[0] {",
		client, "TestForkBeforePart/procedures, plain|TestForkBeforePart/direct, group",
	},
	{
		"what has arrived of a page is dropped", "mdb/read_page.go",
		"if n > 0 && (!r.anchored || !r.inclusive || r.found == r.anchor) {", "if n > 0 && (!r.anchored || r.inclusive && r.found == r.anchor) {",
		client, "TestSilentSubscription",
	},

	{
		"a page that ends because of its size is treated as the last", "mdb/subscribe_source.go",
		"s.through(from, a.messages), n == most || a.more", "s.through(from, a.messages), n == most",
		client, "TestBatchBytes",
	},
	{
		"a sequence ends with a page that ends because of its size", "mdb/read.go",
		"int64(len(messages)) < r.batchSize && !r.more {", "int64(len(messages)) < r.batchSize {",
		client, "TestBatchBytesOfReads",
	},
	{
		"a message that is larger than a page is never read", "mdb/read_bytes.go",
		"if r.room > 0 && n+len(r.page) > 0 && r.taken+size > r.room {", "if r.room > 0 && r.taken+size > r.room {",
		client, "TestBatchBytesOfReads",
	},
	{
		"the steps of a page have its room each", "mdb/read_bytes.go",
		"return max(r.batchBytes-r.bytes, 1)", "return r.batchBytes",
		client, "TestBatchBytes$",
	},
	{
		"pages ask for as many messages as ever, whatever their size", "mdb/read_bytes.go",
		"if r.batchBytes == 0 || r.mean == 0 {", "if true {",
		client, "TestBatchBytesLearns",
	},
	{
		"workers have as many bytes as their messages have", "mdb/subscribe_workers.go",
		"for s != nil && (s.pending > messages || s.bytes > bytes) {", "for s != nil && s.pending > messages {",
		client, "TestWorkersStopsReadingBytes",
	},
	{
		"a page is read ahead after a short one", "mdb/subscribe_loop.go",
		"if page.Full && page.Unreadable == nil {", "if page.Unreadable == nil {",
		client, "TestReadAheadOrder",
	},
	{
		"no page is read ahead", "mdb/subscribe_loop.go",
		"if page.Full && page.Unreadable == nil {", "if false {",
		client, "TestReadAheadOrder",
	},
	{
		"the page after a message that cannot be read is read before that is decided", "mdb/subscribe_loop.go",
		"if page.Full && page.Unreadable == nil {", "if page.Full || page.Unreadable != nil {",
		client, "TestReadAheadUnreadable",
	},
	{
		"a page that was read early shows that a subscription has caught up", "mdb/subscribe_loop.go",
		"page.Unreadable != nil || early // there", "page.Unreadable != nil // there",
		client, "TestReadAheadStale",
	},
	{
		"a subscription is live between full pages if a page that was read ahead is short", "mdb/subscribe_loop.go",
		"} else if !early {", "} else {",
		client, "TestReadAheadStale",
	},
	{
		"a read ahead that fails is the subscription's", "mdb/subscribe_source.go",
		"return page, err == nil && l.known == nil", "return page, err == nil && l.known == nil || err != nil",
		client, "TestReadAheadFails",
	},
	{
		"a page that a read ahead has not read because of a loss is empty", "mdb/subscribe_source.go",
		"return page, err == nil && l.known == nil", "return page, err == nil && l.known == nil || err == nil",
		client, "TestReadAheadFork",
	},
	{
		"a read ahead is retried while the handler runs", "mdb/subscribe_ahead.go",
		"r.page, r.ok = s.tryNext(ctx, from, int(s.read.batchSize))",
		"r.page, _ = s.Next(ctx, from, int(s.read.batchSize)); r.ok = true",
		client, "TestReadAheadFails",
	},
	{
		"a subscription ends before its read ahead", "mdb/subscribe_ahead.go",
		"		r.wait()\n	}\n}", "		_ = r.wait\n	}\n}",
		client, "TestReadAheadDropped|TestReadAheadExits",
	},
	{
		"a read ahead goes on when the subscription ends", "mdb/subscribe_loop.go",
		"	defer stop()\n", "	defer func() { _ = stop }()\n",
		client, "TestReadAheadDropped",
	},
	{
		"a write that is found is acknowledged before a standby has it", "mdb/sql.go",
		"(SELECT pg_catalog.pg_logical_emit_message(true, 'mdb', ''::text) FROM found", "(SELECT NULL::pg_lsn FROM found",
		client, "TestAcknowledgedSurvivesFailover/terminated",
	},
	{
		"a write is acknowledged although its wait for a standby was cancelled", "mdb/notice.go",
		`n.Routine == "SyncRepWaitForLSN"`, "false",
		client, "TestAcknowledgedSurvivesFailover/cancelled",
	},
	{
		"the server is asked to cancel a statement whose connection is given up", "mdb/silence.go",
		"		c.observed.givenUp.Store(true)\n", "		_ = c.observed\n",
		client, "TestSilentStandby",
	},
	{
		"all calls connect while the server cannot be reached", "mdb/gate.go",
		"const maxProbes = 2", "const maxProbes = 100",
		client, "TestProbes/WriteMessage",
	},
	{
		"an expected version in a group does not see the writes before it", "mdb/sql_group.go",
		`fmt.Sprintf(groupFits, "w.version"), fmt.Sprintf(groupFits, "d.after"))+` + "`, written AS (",
		`fmt.Sprintf(groupFits, "w.version"), fmt.Sprintf(groupFits, "d.version"))+` + "`, written AS (",
		client, "TestGroupModel/direct",
	},
	{
		"each write of a group asks for the version of its stream", "mdb/sql_group.go",
		`fmt.Sprintf(groupFits, "w.version"), fmt.Sprintf(groupFits, "d.after"))+groupRows+` + "`position, `+writtenGlobalPosition",
		`fmt.Sprintf(groupFits, "w.version"), fmt.Sprintf(groupFits, "coalesce(message_store.stream_version(w.stream::varchar), -1)"))+groupRows+` + "`position, `+writtenGlobalPosition",
		client, "TestGroupStable",
	},
	{
		"the writes of a group are done in any order", "mdb/sql_group.go",
		"FROM (SELECT * FROM chosen ORDER BY index) AS c", "FROM chosen AS c",
		client, "TestGroupPlans/procedures",
	},
	{
		"a write of a group counts as not written although the COMMIT was sent", "mdb/group_savepoints.go",
		"err = &brokenError{sent: committing, err: err}", "err = &brokenError{sent: false, err: err}",
		"./internal/chaos", "TestCutGroup/procedures, refused",
	},
	{
		"a write that the server refuses fails its group", "mdb/group_send.go",
		"g.sendInSavepoints(ctx, r, conn, members)", "tellAll(members, attempted, err)",
		client, "TestGroupModel|TestGroupRefused",
	},
	{
		"a group whose connection is lost is reported as written", "mdb/group_send.go",
		"a.results[i] = memberResult{m, news{attempted, err}}", "a.results[i] = memberResult{m, news{kind: attempted}}; m.written = make([]Written, len(m.ids))",
		client, "TestGroupSettles",
	},
	{
		"a write of a lost group that has failed may have happened", "mdb/group_send.go",
		"if len(failed) > i && failed[i].err != nil {", "if len(failed) < 0 {",
		client, "TestGroupKnownFailure",
	},
	{
		"the end of a context ends the writes that wait for its write", "mdb/group.go",
		"	return g.calls.attempt(ctx, w)",
		`	defer func() {
		if g.mu.Lock(); ctx.Err() != nil {
			q := g.queues[category]
			tellAll(q.pop(len(q.waiting)), attempted, ctx.Err())
		}
		g.mu.Unlock()
	}()
	return g.calls.attempt(ctx, w)`,
		client, "TestGroupContexts",
	},
	{
		"a write whose context has ended stays in the queue", "mdb/group.go",
		"q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)", "_ = i",
		client, "TestGroupModel|TestGroupContexts",
	},
	{
		"a write that waits shares its bytes with the caller", "mdb/group.go",
		"*text = strings.Clone(*text)", "_ = strings.Clone",
		client, "TestGroupContexts",
	},
	{
		"a refused write undoes those before it", "mdb/group_savepoints.go",
		"			p.plain(groupRelease)\n			p.plain(groupSavepoint)\n", "",
		client, "TestGroupModel|TestGroupRefused",
	},
	{
		"the messages of a group have the positions of others", "mdb/group_send.go",
		"r.written, written = written[:n:n], written[n:]", "r.written, written = written[len(written)-n:], written[:len(written)-n]",
		client, "TestGroupModel",
	},
	{
		"writes of one call to the same stream are sent in a group", "mdb/write_each_groups.go",
		"if only && !g.rests.has(w.stream) {", "if (only || true) && !g.rests.has(w.stream) {",
		client, "TestGroupEach",
	},
	{
		"a write of WriteEach that was sent in a group is reported as not sent", "mdb/write_each_groups.go",
		"e.fail(ctx, w.proposedWrite, w.index, w.abandoned(ctx))", "e.fail(ctx, w.proposedWrite, w.index, w.explain(ctx.Err()))",
		client, "TestGroupEachContext",
	},
	{
		"Close does not wait for groups", "mdb/group.go",
		"if g.active == 0 {", "if true {",
		client, "TestGroupContexts",
	},

	{
		"a write continues without the context of its hooks", "mdb/hooks_write.go",
		"ctx = hook.OnWriteStart(ctx, call)", "_ = hook.OnWriteStart(ctx, call)",
		client, "TestHooksNest|TestTracersSeeTheContextsOfHooks",
	},
	{
		"a group continues without the context of its hooks", "mdb/hooks_write.go",
		"ctx = hook.OnGroupStart(ctx, g)", "_ = hook.OnGroupStart(ctx, g)",
		client, "TestHooksOfGroups",
	},
	{
		"hooks that end a call are called in the order of those that begin it", "mdb/hooks_write.go",
		"range slices.Backward(h.calls)", "range slices.All(h.calls)",
		client, "TestHooksNest",
	},
	{
		"keys of a message replace those of hooks", "mdb/hooks_write.go",
		"		metadata = withKeys(metadata, added)\n", "		metadata = withKeys(added, withKeys(metadata, added))\n",
		client, "TestHooksAddMetadata",
	},
	{
		"hooks add to the caller's bytes", "mdb/hooks_write.go",
		"	merged := make([]byte, 0, len(members)+len(keys)+2)\n	merged = append(append(append(merged, '{'), members...), ',')\n", "	merged := append(trimmed[:len(trimmed)-1], ',')\n",
		client, "TestHooksAddMetadata",
	},
	{
		"a write in a group counts as two attempts", "mdb/group.go",
		"	if !ok {\n		w.attempts++", "	if !ok || n.err == nil {\n		w.attempts++",
		client, "TestHooksOfGroups|TestHooksOfGroupedWriteEach",
	},
	{
		"a hook is called while the write has the turn of its category", "mdb/group.go",
		"	defer g.passTurn(category) //nolint:contextcheck // the next group belongs to other callers\n	return g.calls.attempt(ctx, w)\n",
		"	err := g.calls.attempt(ctx, w)\n	g.calls.ended(ctx, w, err)\n	g.passTurn(category)\n	return err\n",
		client, "TestHooksThatPanic",
	},
	{
		"a read continues without the context of its hooks", "mdb/hooks_read.go",
		"ctx = hook.OnReadStart(ctx, call)", "_ = hook.OnReadStart(ctx, call)",
		client, "TestHooksOfReads",
	},
	{
		"a handler does not get the context of its hooks", "mdb/hooks_handle.go",
		"ctx = hook.OnHandleStart(ctx, of)", "_ = hook.OnHandleStart(ctx, of)",
		client, "TestHooksOfSubscriptions",
	},
	{
		"hooks do not receive that a handler panics", "mdb/hooks_handle.go",
		"			h.endHandle(ctx, of, begun, err)\n", "			if returned {\n				h.endHandle(ctx, of, begun, err)\n			}\n",
		client, "TestHooksOfSubscriptions",
	},
	{
		"hooks replace the caller's function of OnLive", "mdb/hooks_state.go",
		"			if callback != nil {\n				callback(isLive)\n			}\n", "			_ = callback\n",
		client, "TestHooksOfSubscriptions",
	},
}
