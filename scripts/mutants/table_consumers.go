package main

const (
	consumers = "./mdb/consumer"
	protocol  = "./internal/ledger"
)

// Those without a file are rules of the SQL functions, or of the model of the protocol.
var consumerMutants = []mutant{
	{rule: "the fence does not compare the member", in: protocol, test: "TestModelMutants|TestModelIsServerMutants"},
	{rule: "the fence does not compare the epoch", in: protocol, test: "TestModelMutants|TestModelIsServerMutants"},
	{rule: "the fence does not compare the position", in: consumers, test: "TestUnknownOutcomesNeedPosition"},
	{rule: "the fence looks at another row; the position is read before the claim", in: protocol, test: "TestWalkFenceMutants"},
	{rule: "claims without the mutex; a partition is free if one of its rows is", in: protocol, test: "TestWalkMembersMutants"},
	{rule: "released while a handler has a message; released, and then moved", in: protocol, test: "TestWalkHandoverMutants"},
	{rule: "passed before parked; parked without a move; parked keys read before the claim; unfenced parks", in: protocol, test: "TestWalkParkMutants"},
	{rule: "a consumer begins at the last position that any transaction has got", in: protocol, test: "TestWalkCreationMutants"},
	{rule: "a tick waits for a checkpoint; a park takes the mutex after a checkpoint", in: protocol, test: "TestLockMutants"},
	{rule: "partitions are claimed after a barrier while handlers run that were called before; the layout is the number of partitions", in: protocol, test: "TestWalkResizeMutants"},
	{rule: "a member knows a barrier that is not committed", in: protocol, test: "TestWalkBarrierMutants"},
	{rule: "seek and resize leave the epochs; new partitions begin at 0; fork and resize without locks", in: protocol, test: "TestWalkOperatorMutants"},

	{
		"a partition is drained while a handler has a message of it", "mdb/consumer/engine_part.go",
		"p.surrendered && (len(p.chunks) == 0 || e.isStuck(p)) && p.running == 0 &&", "p.surrendered &&",
		consumers, "TestSurrender|TestMemberSurrenders",
	},
	{
		"a process reads rows again without new epochs", "mdb/consumer/member_rows.go",
		"if ok && row.Epoch == known.Epoch && !renewed[p] {", "if false {",
		consumers, "TestMemberReadsByNewEpochs",
	},
	{
		"rows that a member has forgotten keep their epochs", "mdb/schema/consumers.sql",
		"SET timeline = message_store_consumers.timeline(), epoch = fresh\n      FROM locked", "SET timeline = message_store_consumers.timeline()\n      FROM locked",
		protocol, "TestRebalanceForgotten",
	},
	{
		"a partition is released where it was, and its checkpoint moved after that", "mdb/consumer/member_rows.go",
		"released, err = p.release(ctx, *m.self.Load(), moves)",
		"for i := range moves {\n moves[i].To = moves[i].From\n }\n released, err = p.release(ctx, *m.self.Load(), moves)",
		consumers, "TestMemberSurrenders|TestHandover",
	},
	{
		"a member judges others for a silence that it has shared", "mdb/schema/consumers.sql",
		"      AND (me.woke IS NULL OR me.woke < pg_catalog.clock_timestamp() - m.lease)\n", "",
		protocol, "TestEviction",
	},
	{
		"a member that has not ticked since the clock was set back judges others", "mdb/schema/consumers.sql",
		"  SET seen = pg_catalog.clock_timestamp(), woke = pg_catalog.clock_timestamp()\n", "  SET seen = pg_catalog.clock_timestamp()\n",
		protocol, "TestEviction",
	},
	{
		"a tick hides that the clock was set back", "mdb/schema/consumers.sql",
		"    WHEN m.seen > pg_catalog.clock_timestamp() + interval '1 second' THEN m.seen -- after seen, so that balance knows: the clock was set back\n", "",
		protocol, "TestEvictionWhileClockSetBack",
	},
	{
		"a member is evicted by a tick that it made while the clock was set back", "mdb/schema/consumers.sql",
		" OR m.woke > m.seen + interval '1 second');", ");",
		protocol, "TestEvictionWhileClockSetBack",
	},
	{
		"partitions are claimed after a barrier while handlers run that were called before", "mdb/schema/consumers.sql",
		"IF quota > held AND free IS NOT NULL AND ready THEN", "IF quota > held AND free IS NOT NULL THEN",
		consumers, "TestResizeWaitsForHandlers",
	},
	{
		"a process confirms a change of the partitions while its handlers run", "mdb/consumer/member_steered.go",
		"m.resizing, m.remindAt = m.engine.isBusy(),", "m.resizing, m.remindAt = false,",
		consumers, "TestResizeWaitsForHandlers|TestMemberPartitions",
	},
	{
		"a process that joins again looks its consumer up by the name", "mdb/consumer/member_join.go",
		"params.Former = id, former\n", "params.Former = id, 0*former\n",
		consumers, "TestMemberRenamed",
	},
	{
		"a process that joins again replaces a newer one of its instance", "mdb/schema/consumers.sql",
		"IF $9 IS NOT NULL AND EXISTS (", "IF false AND EXISTS (",
		protocol, "TestJoinAgainAfterTwin",
	},
	{
		"a process that joins again after a failover replaces a newer one of its instance", "mdb/consumer/member_join.go",
		"params.Since = m.joined", "params.Since = time.Time{}",
		consumers, "TestMemberReplacedBefore",
	},
	{
		"a process that joins again after a failover does not wait for one that joins", "internal/ledger/calls.go",
		"		b.Queue(sqlLockName, p.Name)", "		b.Queue(\"SELECT $1::text\", p.Name)",
		protocol, "TestJoinAgainElsewhere",
	},
	{
		"a position stream takes every process that writes in another history for an older one", "mdb/consumer/position_stream_tick.go",
		"		if !kept {", "		if kept = false; !kept {",
		consumers, "TestPositionStreamReplacedBefore",
	},
	{
		"a process that takes over again after a failover takes over from one that begins meanwhile", "mdb/consumer/position_stream_tick.go",
		"s.last, s.timeline, s.rewound = found, timeline, true", "s.rewound = true",
		consumers, "TestPositionStreamRewoundAndReplaced",
	},
	{
		"an import joins a consumer that was created meanwhile", "mdb/consumer/admin_import.go",
		"	case !created:\n", "	case !created && false:\n",
		consumers, "TestImportPosition",
	},
	{
		"a process does not know the history before its first tick", "mdb/consumer/member_join.go",
		"	m.see(joined.Timeline)\n", "",
		consumers, "TestMemberDeletedBeforeFirstTick",
	},
	{
		"the key of a message that was parked alone and is skipped remains blocked", "mdb/schema/consumers.sql",
		"SET epoch = message_store_consumers.next_epoch(own)\n", "SET epoch = c.epoch\n",
		protocol, "TestSkip",
	},
	{
		"processes whose leases have ended do not run", "mdb/schema/consumers.sql",
		"ELSIF silent > 0 AND NOT $3 THEN", "ELSIF false THEN",
		protocol, "TestRename|TestRemove",
	},
	{
		"processes are dead although nobody could reach the server meanwhile", "mdb/consumer/admin_guard.go",
		"last.IsZero() || now.Sub(last) > shortest/2", "last.IsZero()",
		consumers, "TestWatch",
	},
	{
		"a lease counts from the answer of a tick", "mdb/consumer/member.go",
		"m.lease.renew(sent)", "_ = sent\n	m.lease.renew(m.now())",
		consumers, "TestMemberDeadline",
	},
	{
		"a process gives away partitions that it has had for long", "mdb/consumer/member_rows.go",
		"cmp.Compare(claimed[b], claimed[a]), ", "",
		consumers, "TestGroupReturns",
	},
	{
		"the wall clock does not count", "mdb/consumer/lease.go",
		"max(now.mono-i.mono, now.wall.Sub(i.wall))", "now.mono-i.mono",
		consumers, "TestMemberSuspended",
	},
	{
		"the checkpoint is the highest message that is handled", "mdb/consumer/engine_part.go",
		"	default:\n		e.uncountPayload(it)",
		"	default:\n		c.part.done.position = max(c.part.done.position, it.delivery().message.GlobalPosition)\n		e.uncountPayload(it)",
		consumers, "TestPrefix|TestEngineProperties",
	},
	{
		"the checkpoint passes a message that is about to be parked", "mdb/consumer/engine_part.go",
		"func (p *part) move() ledger.Move {\n	return",
		`func (p *part) move() ledger.Move {
	if len(p.chunks) > 0 {
		c := p.chunks[0]
		for i := c.first; i < len(c.items) && (c.items[i].state == itemDone || c.items[i].pending != nil); i++ {
			p.done.position = c.deliveries[i].message.GlobalPosition
		}
	}
	return`,
		consumers, "TestPark|TestEngineProperties",
	},
	{
		"a park whose outcome is unknown counts as done", "mdb/consumer/engine_fail.go",
		"	case err == nil:\n		row :=", "	case err == nil || !ledger.IsFenced(err) && !errors.Is(err, errParkedFull):\n		row :=",
		consumers, "TestPark|TestEngineProperties",
	},
	{
		"a park without an answer is repeated by the same epoch", "mdb/consumer/engine_fail.go",
		"	case mayBeDone(err): //", "	case false: //",
		consumers, "TestParkUnanswered|TestMemberReadsUnansweredPark",
	},
	{
		"messages of a parked key are handled", "mdb/consumer/engine_work.go",
		"if p.blocked != nil && it.pending == nil {", "if false {",
		consumers, "TestPark|TestEngineProperties",
	},
	{
		"a key is unparked before everything that was passed over is replayed", "mdb/consumer/replay_turn.go",
		"open && (w.move.To < b.passed || p.offered)", "open && p.offered",
		consumers, "TestReplayProperties",
	},
	{
		"a key is unparked before the checkpoint has reached what was parked", "mdb/consumer/replay_turn.go",
		"isOpen(row) && row.GlobalPosition > w.move.To", "false",
		consumers, "TestReplayBeforeParked",
	},
	{
		"a message that is parked alone is replayed before it is due", "mdb/consumer/replay_turn.go",
		"return !row.IsDue || row", "return row",
		consumers, "TestReplayAlone",
	},
	{
		"a message that is parked alone, and fails again, keeps the others", "mdb/consumer/replay_fail.go",
		"if row.Upto != nil { // others", "if false { // others",
		consumers, "TestReplayAlone",
	},
	{
		"a replay in a transaction does not move the checkpoint", "mdb/consumer/tx.go",
		"	ledger.QueueMove(b, c.member, c.move())\n	if !c.isReplay() {\n		return 1\n	}\n",
		"	if !c.isReplay() {\n		ledger.QueueMove(b, c.member, c.move())\n		return 1\n	}\n	b.Queue(\"SELECT\")\n",
		consumers, "TestUnknownOutcomes",
	},
	{
		"a transaction that parks does not move the checkpoint", "mdb/consumer/park.go",
		"if p.move != nil { // first, because it locks the checkpoint exclusively", "if false {",
		consumers, "TestUnknownOutcomes",
	},
	{
		"moves that the fence has refused count as made", "mdb/consumer/member.go",
		"	m.fence(ps)\n	m.engine.refused(refused, errMoved)", "	m.engine.stored(refused)",
		consumers, "TestMemberRefused",
	},
	{
		"ticks move the checkpoint while a transaction that moves it runs", "mdb/consumer/engine.go",
		"!p.offered && !p.fenced && !p.stale && !e.movesSoon(p) {", "!p.offered && !p.fenced && !p.stale {",
		consumers, "TestMoves|TestEngineProperties",
	},
	{
		"a transaction whose outcome is unknown counts as committed", "mdb/consumer/form_tx.go",
		"		n, err := f.attempt(ctx, c)\n		if err != nil {",
		"		n, err := f.attempt(ctx, c)\n		if what, _ := said(err); what == toWait {\n			n, err = len(c.deliveries), nil\n		}\n		if err != nil {",
		consumers, "TestUnknownOutcomes",
	},
	{
		"a commit that the fence has made a rollback counts as done", "mdb/consumer/tx.go",
		"	case err != nil:\n		return err\n	case tag.String()", "	case err != nil:\n		return nil\n	case tag.String()",
		consumers, "TestFormFenced|TestClaimedAgain",
	},
	{
		"a process joins again as the member that was evicted", "mdb/consumer/member_join.go",
		"	id := m.next\n", "	id := m.next\n	if old != nil {\n		id = old.ID\n	}\n",
		consumers, "TestMemberEvicted",
	},
	{
		"a join without an answer is repeated as another member", "mdb/consumer/member_join.go",
		"	if m.next == uuid.Nil {\n		m.next", "	{\n		m.next",
		consumers, "TestMemberJoinsOnce",
	},
	{
		"the handlers of an evicted member go on", "mdb/consumer/member.go",
		"	m.forget(cause)\n	m.counts.losses.Add(1)\n", "	_ = cause\n	m.counts.losses.Add(1)\n",
		consumers, "TestMemberDeleted",
	},
	{
		"a member that was replaced joins again", "mdb/consumer/member.go",
		"	if cause != ErrLeaseLost { //", "	if false { //",
		consumers, "TestMemberReplaced",
	},
	{
		"ticks need a connection of the pool", "mdb/consumer/consumer.go",
		"		do:     r.do, ",
		`		do: func(ctx context.Context, f func(int64, protocol) error) (int64, error) {
			conn, err := r.store.Pool().Acquire(ctx)
			if err != nil {
				return 0, err
			}
			defer conn.Release()
			return 1, f(1, onConn{conn.Conn()})
		}, `,
		consumers, "TestBusyPool",
	},
	{
		"another timeline is ignored", "mdb/consumer/member_doubt.go",
		"	if timeline != m.timeline {", "	if false {",
		consumers, "TestMemberDoubts",
	},
	{
		"rows are read again only if messages are missing", "mdb/consumer/member_doubt.go",
		"func (m *member) suspect(why error) {\n", "func (m *member) suspect(why error) {\n	if !m.rewound.Load() {\n		return\n	}\n",
		consumers, "TestMemberDoubts",
	},
	{
		"a page is read without the anchors of the one before", "mdb/consumer/reader_cursor.go",
		"return source.Anchor{Position: m.GlobalPosition, ID: m.ID, Time: scan.Micros(m.Time)}", "_ = scan.Micros(m.Time)\n		return source.Anchor{}",
		consumers, "TestReaderFork|TestReaderLosesMessages",
	},
	{
		"transactions have the isolation level of the session", "mdb/consumer/tx.go",
		`return "begin isolation level " + string(isolation)`, `return "begin"`,
		consumers, "TestBegin|TestFormsOnce",
	},
	{
		"handlers may queue commands of transactions", "mdb/consumer/form_queued.go",
		"	if err := checkQueued(sql); err != nil {", "	if err := checkQueued(sql); false {",
		consumers, "TestQueuedCommandsRejected",
	},
	{
		"lost connections never count", "mdb/consumer/transient.go",
		"lossesUncounted    = 2", "lossesUncounted    = 1 << 30",
		consumers, "TestUncounted|TestUncountedInARow",
	},
	{
		"the first message of a batch is to blame", "mdb/consumer/engine_fail.go",
		"b.Index >= done && b.Index < done+left", "false",
		consumers, "TestBatchError",
	},
	{
		"joins, balances, releases and leaves wait for a held lock until their context ends", "internal/ledger/calls.go",
		"if deadline, ok := ctx.Deadline(); ok {", "if deadline, ok := ctx.Deadline(); ok && false {",
		protocol, "TestHeldMutex",
	},
	{
		"ticks wait for the disk", "mdb/schema/consumers.sql",
		"  PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);\n", "",
		protocol, "TestBeatWaitsForNoDisk|TestIdle",
	},
	{
		"a process joins again with the number of partitions that it had", "mdb/consumer/member_join.go",
		"			params.Partitions = 0 // the number may", "			params.Partitions = old.Partitions // the number may",
		consumers, "TestMemberResized",
	},
	{
		"balances that the server has rejected are repeated each second", "mdb/consumer/member_rows.go",
		"	return joinRetry.Delay(m.rejected)", "	return time.Second",
		consumers, "TestMemberWithoutMutex",
	},
	{
		"the limit for locks is set by a statement of its own", "internal/ledger/calls.go",
		"	b := limited(ctx)\n	b.Queue(sqlLeave,", "	_ = q.SendBatch(ctx, limited(ctx)).Close()\n	b := &pgx.Batch{}\n	b.Queue(sqlLeave,",
		consumers, "TestLineRoundTrips",
	},
	{
		"idle members tick each second", "mdb/consumer/member.go",
		"quiet := min(quietInterval, m.lease.length/5)", "quiet := min(busyInterval, m.lease.length/5)",
		consumers, "TestMemberIdle",
	},
	{
		"a seek forgets streams that are parked before it", "mdb/schema/consumers.sql",
		"p.global_position > least(c.position, seek.position)",
		"true",
		protocol, "TestSeekParked",
	},
	{
		"a stream that remains parked after a seek is replayed from where it was", "mdb/schema/consumers.sql",
		"p.stream = f.stream AND p.position = f.position;",
		"false;",
		protocol, "TestSeekParked",
	},
	{
		"a stream that remains parked after a seek is replayed from the global position where it was", "mdb/schema/consumers.sql",
		"SET position = f.first, global_position = f.global_position, attempts = 0",
		"SET position = f.first, attempts = 0",
		protocol, "TestSeekParked",
	},
	{
		"a seek back leaves messages that were parked alone after the row of their stream", "mdb/schema/consumers.sql",
		"p.global_position > seek.position AND EXISTS (", "false AND EXISTS (",
		protocol, "TestSeekKeepsAlone",
	},
	{
		"a seek deletes the row that says when a key is replayed", "mdb/schema/consumers.sql",
		"AND p.key = ANY (keys) AND p.upto IS NULL;", "AND false;",
		protocol, "TestSeekLeavesKeyDue",
	},
	{
		"a skip of a message that was parked alone skips the others of its key", "mdb/schema/consumers.sql",
		"AND p.category = place AND p.stream = $2 AND p.position = first;", "AND p.category = place AND p.key = waits AND p.upto IS NOT NULL;",
		protocol, "TestSkipAloneOnly",
	},
	{
		"a skip looks for the row of a stream before it has the lock", "mdb/schema/consumers.sql",
		"LIMIT 1 FOR UPDATE OF c;", "LIMIT 1;",
		protocol, "TestSkipDuringReplay",
	},
	{
		"a skip waits without end for a process that is before the message", "mdb/consumer/admin.go",
		"(unstored.IsZero() || time.Since(unstored) < storeWait)", "time.Since(unstored) > 0",
		consumers, "TestRepeat",
	},
	{
		"a message that is parked alone and was deleted remains parked", "mdb/consumer/replay_turn.go",
		"if len(in.gone) > 0 {", "if false {",
		consumers, "TestReplayAloneDeleted",
	},
	{
		"a replay, its end, its failure and a park lock rows of a key in another order than an operator", "mdb/schema/consumers.sql",
		"AND p.key = $4\n  ORDER BY p.category, p.stream, p.position FOR NO KEY UPDATE;", "AND false;",
		protocol, "TestKeyLocksInOrder",
	},
	{
		"a seek to a time trusts that times rise with positions", "mdb/schema/consumers.sql",
		"timezone('UTC', $2 - $3)",
		"timezone('UTC', $2)",
		protocol, "TestSeekTime",
	},
	{
		"all that waits is skipped beyond the checkpoint", "mdb/schema/consumers.sql",
		"message_store_consumers.next_of(p.stream, passed)",
		"message_store_consumers.next_of(p.stream, 1::bigint << 62)",
		protocol, "TestSkip",
	},
	{
		"a resize goes on before all members know the barrier", "mdb/schema/consumers.sql",
		"AND (since IS NULL OR m.seen < since)",
		"AND false",
		protocol, "TestResizeByBarrier",
	},
	{
		"a resize does not wait until all partitions are at the same position", "mdb/schema/consumers.sql",
		"AND e.lowest < e.highest AND",
		"AND false AND",
		protocol, "TestResizeByBarrier",
	},
	{
		"a barrier does not rise", "mdb/schema/consumers.sql",
		"SELECT greatest(barrier, pg_catalog.max(c.position)) INTO",
		"SELECT coalesce(barrier, pg_catalog.max(c.position)) INTO",
		protocol, "TestResizeByBarrier",
	},
	{
		"a barrier stays when its operator is gone", "mdb/schema/consumers.sql",
		"WHEN $1.barrier_end IS NULL OR $1.barrier_end > pg_catalog.clock_timestamp() THEN",
		"WHEN true THEN",
		protocol, "TestBarrierEnds",
	},
	{
		"a member gets partitions by another number than it has", "mdb/schema/consumers.sql",
		"  IF $3 <> parts OR $4 <> current THEN",
		"  IF false THEN",
		protocol, "TestResizeToMultiple",
	},
	{
		"a resize that is ended leaves its barrier", "mdb/consumer/admin_change.go",
		"	partitions, failed := r.undo()\n", "	partitions, failed := 0, error(nil)\n",
		consumers, "TestResizeSteps|TestAdminResize",
	},
	{
		"a resize waits for a paused consumer", "mdb/consumer/admin_change.go",
		"	case r.paused && r.Waiting > 0:\n", "	case false:\n",
		consumers, "TestResizeSteps|TestAdminResize",
	},
	{
		"a resize fails that is committed although its ctx has ended", "mdb/consumer/admin_change.go",
		"	case isUnknown && failed == nil && partitions == r.partitions:\n", "	case isUnknown && failed == nil && partitions == -1:\n",
		consumers, "TestResizeSteps|TestAdminResizeEnded",
	},
	{
		"a process for which a resize waits is not shown", "internal/ledger/look.go",
		"m.layout <> o.layout", "false",
		consumers, "TestResizeWaitsForHandlers",
	},
	{
		"who waits for a parked stream waits for ever", "mdb/consumer/admin_wait.go",
		"case done.Parked:", "case false:",
		consumers, "TestWaitFor",
	},

	{
		"a page that lacks the last message of a partition is passed on", "mdb/consumer/reader_trail.go",
		"&& !has(messages, a)", "&& false && !has(messages, a)",
		consumers, "TestReaderContradicted",
	},
	{
		"the trail forgets what was lost", "mdb/consumer/state_check.go",
		"known = t.branchOf(id)", "known = nil",
		consumers, "TestStateInTakeover",
	},
	{
		"a process that began to read at the last message that is left does not know it", "mdb/consumer/state_trail.go",
		"[]source.Anchor{b.base}", "[]source.Anchor{{}}",
		consumers, "TestStateInLate",
	},
	{
		"a page of another history does not begin a branch", "mdb/consumer/state_trail.go",
		"if i == len(t.messages) || t.messages[i] != anchorOf(m) {", "if false {",
		consumers, "TestTrail",
	},
	{
		"a page that begins in another history continues the trail", "mdb/consumer/state_trail.go",
		"return i >= 0 && t.messages[i] == anchors[0]", "return i >= -1",
		consumers, "TestTrail",
	},
	{
		"a branch counts as lost without a look", "mdb/consumer/state_check.go",
		"known = t.branchOf(id)", "known = t.branchOf(id)[:1]",
		consumers, "TestStateInDeleted",
	},
	{
		"the time of a message that could not be read is compared", "mdb/consumer/state_questions.go",
		"Valid: !anchor.Time.IsZero()", "Valid: true",
		consumers, "TestUnreadableElsewhere",
	},
	{
		"messages that were lost are handled when they come back", "mdb/consumer/reader_trail.go",
		"if m := &page.Messages[i]; r.trail.isLost(m) {", "if m := &page.Messages[i]; false && r.trail.isLost(m) {",
		consumers, "TestStateInPausedBack",
	},
	{
		"checkpoints are not compared with what was lost before", "mdb/consumer/state_check.go",
		"if i < 0 { //", "if i < -1<<20 { //",
		consumers, "TestStateInBack",
	},
	{
		"a message counts as lost although the checkpoints were moved since", "mdb/consumer/state_trail.go",
		"clear(t.lost)", "_ = t.lost",
		consumers, "TestStateInSoughtBack",
	},
	{
		"a message that was written again with its ID counts as lost", "mdb/consumer/state_check.go",
		"if !at.IsZero() && scan.Micros(at) != a.Time {", "if false && scan.Micros(at) != a.Time {",
		consumers, "TestStateInRewritten",
	},
	{
		"a standby that lags decides that messages are lost", "mdb/consumer/state_check.go",
		"case q.servers[q.place(row.Category)].standby:", "case false:",
		consumers, "TestStateInLag",
	},
	{
		"the reading of a checkpoint begins without its anchor", "mdb/consumer/member_rows.go",
		"m.anchored && a.Position > 0", "false && a.Position > 0",
		consumers, "TestBeginsWithAnchor",
	},
	{
		"parked streams do not go back", "mdb/schema/consumers.sql",
		"p.upto IS NULL AND p.position > n.next;", "p.upto IS NULL AND false;",
		consumers, "TestStateInParked",
	},
	{
		"a handler of a consumer does not get the context of its hooks", "mdb/consumer/hooks.go",
		"return next, begun, nil", "return ctx, begun, nil",
		consumers, "TestHooks",
	},
	{
		"the panic of a hook is the failure of a message", "mdb/consumer/hooks.go",
		"	return Stop(fmt.Errorf(\"a hook of the store failed: %w\", err))\n", "	return Permanent(fmt.Errorf(\"a hook of the store failed: %w\", err))\n",
		consumers, "TestHooksThatPanic",
	},
	{
		"hooks of failures do not receive what is parked", "mdb/consumer/hooks.go",
		"		if r.stream == nil { // otherwise nothing is parked\n", "		if r.stream != nil {\n",
		consumers, "TestHooksSeeParking",
	},
	{
		"hooks do not receive the state of consumers", "mdb/consumer/consumer.go",
		"c.observed.observe(r.store, c.name)", "c.observed",
		consumers, "TestHooks",
	},
}
