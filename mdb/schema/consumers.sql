-- The state of consumers. A consumer's row is also its mutex: join, balance, release and leave
-- lock it first, so that each of them sees what the one before it did. Everybody locks in the
-- order consumers, members, checkpoints, parked. Of the functions that members call, only move, park, replayed,
-- postpone and unpark wait for the lock of a checkpoint. The others skip checkpoints that are locked, so a transaction
-- that hangs delays neither heartbeats nor those who wait for the mutex. The functions of operators, which are at the
-- end, do wait for checkpoints, and their callers limit that.
--
-- The functions refer to their parameters by number, because columns have the same names.
CREATE SCHEMA IF NOT EXISTS message_store_consumers;

CREATE TABLE message_store_consumers.consumers (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text NOT NULL CONSTRAINT consumers_name_key UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 200),
  categories text[] NOT NULL,                 -- those that have checkpoints
  partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
  changes    bigint NOT NULL DEFAULT 1,       -- counts what members have to look at
  paused     text,                            -- why, or NULL
  barrier    bigint,                          -- nobody handles messages after this position; NULL: no limit
  barrier_set timestamptz,                    -- who has ticked since then knows it; NULL: it may not be committed yet
  barrier_end timestamptz,                    -- when it ends unless it is renewed; NULL: never
  layout     bigint NOT NULL DEFAULT 0,       -- the epoch of the last change that has assigned keys to other members' partitions
  made       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE message_store_consumers.members (
  id         uuid PRIMARY KEY,                -- of one run, never used again
  consumer   bigint NOT NULL REFERENCES message_store_consumers.consumers (id),
  instance   text CHECK (octet_length(instance) BETWEEN 1 AND 200), -- a name that outlives the process, or NULL
  categories text[] NOT NULL CHECK (cardinality(categories) > 0),   -- those that it reads
  info       text NOT NULL,                   -- host, process, version
  joined     timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen       timestamptz NOT NULL DEFAULT clock_timestamp(),
  woke       timestamptz,                     -- when its last long silence ended; after seen: the clock was set back since then
  layout     bigint NOT NULL,                 -- of the consumer, by which its handlers were called
  lease      interval NOT NULL CHECK (lease > '0')
) WITH (fillfactor = 50);
CREATE INDEX members_consumer ON message_store_consumers.members (consumer);

-- The columns that a move changes come last, so that it writes little WAL. Rows grow by their
-- member and anchor, and a page has room for two versions of each.
CREATE TABLE message_store_consumers.checkpoints (
  consumer    bigint NOT NULL REFERENCES message_store_consumers.consumers (id),
  partition   integer NOT NULL,
  category    text NOT NULL,
  member      uuid,                                  -- who may move it; free if that is no member
  timeline    text,                                  -- of the server at the claim by which; NULL: not known
  epoch       bigint NOT NULL DEFAULT 0,             -- of that claim
  gone        uuid[],                                -- NULL: the messages are in this database. Else the first lost message of each loss
  gone_times  timestamptz[],                         -- theirs
  position    bigint NOT NULL CHECK (position >= 0), -- everything up to here is done with
  moved       timestamptz NOT NULL DEFAULT clock_timestamp(),
  anchor_time timestamptz,
  anchor      uuid,                                  -- the last known message up to the position
  PRIMARY KEY (consumer, category, partition)
) WITH (fillfactor = 25);

CREATE TABLE message_store_consumers.parked (
  consumer        bigint NOT NULL REFERENCES message_store_consumers.consumers (id),
  category        text NOT NULL,
  partition       integer NOT NULL,
  key             text NOT NULL,              -- the cardinal ID, all of whose streams wait
  stream          text NOT NULL,
  position        bigint NOT NULL,            -- in the stream; not done from here on
  upto            bigint,                     -- to here; NULL: to the checkpoint
  global_position bigint NOT NULL,            -- of the message that was parked first
  attempts        integer NOT NULL,           -- of the message at the position; 0: it only waits for its key
  replays         integer NOT NULL DEFAULT 0, -- those of the attempts that were made since it was parked
  error           text CHECK (char_length(error) <= 1000),
  due             timestamptz,                -- when it is retried; NULL: when somebody asks for it
  parked          timestamptz NOT NULL DEFAULT clock_timestamp(),
  tried           timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT parked_pkey PRIMARY KEY (consumer, category, stream, position)
);
CREATE INDEX parked_due ON message_store_consumers.parked (consumer, due) WHERE due IS NOT NULL;

CREATE FUNCTION message_store_consumers.version()
RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';

-- The timeline of the server's write-ahead log, which a failover changes, and the database, which a restore
-- into another one changes, or NULL if this server is not an ordinary PostgreSQL.
CREATE FUNCTION message_store_consumers.timeline()
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) || '/' || (
    SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
  );
EXCEPTION WHEN undefined_function OR feature_not_supported OR insufficient_privilege THEN
  RETURN NULL;
END
$$;

-- Returns the ordinals of the messages that the store does not have. The position of another history may belong to another
-- message here, or to none yet, and a checkpoint that has moved there would pass those that get the positions before it. An
-- anchor that is NULL is not compared, nor is any if the caller cannot read the messages. The count makes PostgreSQL look
-- for each by its ID, and never read the whole table.
CREATE FUNCTION message_store_consumers.lost(anchors uuid[], anchor_times timestamptz[], uptos bigint[])
RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
  RETURN ARRAY(
    SELECT w.n FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) WITH ORDINALITY AS w(anchor, anchor_time, upto, n)
    WHERE w.anchor IS NOT NULL AND 0 = (
      SELECT pg_catalog.count(*) FROM message_store.messages AS m
      WHERE m.id = w.anchor AND m.global_position <= w.upto AND (w.anchor_time IS NULL OR m.time = pg_catalog.timezone('UTC', w.anchor_time))
    )
  );
EXCEPTION WHEN undefined_table OR insufficient_privilege THEN
  RETURN '{}';
END
$$;

-- Reports whether the store has the message.
CREATE FUNCTION message_store_consumers.has(anchor uuid, anchor_time timestamptz, upto bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN message_store_consumers.lost(ARRAY[$1], ARRAY[$2], ARRAY[$3]) = '{}';
END
$$;

-- Notifies a consumer's members, unless the notification queue is half full, because a full queue would
-- fail the commit. Members then see what has changed when they tick.
CREATE FUNCTION message_store_consumers.notify_members(name text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_catalog.pg_notify('message_store_consumers', $1);
  END IF;
END
$$;

-- Counts a change, and notifies the consumer's members.
CREATE FUNCTION message_store_consumers.ring(consumer bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  payload text;
BEGIN
  UPDATE message_store_consumers.consumers AS c SET changes = c.changes + 1 WHERE c.id = $1 RETURNING c.name INTO payload;
  IF FOUND THEN
    PERFORM message_store_consumers.notify_members(payload);
  END IF;
END
$$;

-- Returns an epoch that is greater than every one before, also after a failover that has lost some of them.
CREATE FUNCTION message_store_consumers.next_epoch(consumer bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN (
    SELECT greatest(pg_catalog.max(o.epoch) + 1, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint)
    FROM message_store_consumers.checkpoints AS o WHERE o.consumer = $1
  );
END
$$;

-- Gives at most that many of the partitions to the member, by one new epoch. A partition is left
-- out if a checkpoint of it is locked. The caller has the mutex, and knows that no living member
-- has the partitions.
CREATE FUNCTION message_store_consumers.take(consumer bigint, member uuid, partitions integer[], most integer)
RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
  taken integer[];
  fresh bigint; -- the epoch
BEGIN
  WITH locked AS MATERIALIZED (
    SELECT c.partition FROM message_store_consumers.checkpoints AS c
    WHERE c.consumer = $1 AND c.partition = ANY ($3)
    FOR NO KEY UPDATE SKIP LOCKED
  ), ready AS (
    SELECT l.partition FROM (SELECT o.partition, pg_catalog.count(*) AS n FROM locked AS o GROUP BY o.partition) AS l
    JOIN (
      SELECT c.partition, pg_catalog.count(*) AS n FROM message_store_consumers.checkpoints AS c
      WHERE c.consumer = $1 GROUP BY c.partition
    ) AS a ON a.partition = l.partition AND a.n = l.n
    ORDER BY l.partition LIMIT $4
  )
  SELECT pg_catalog.array_agg(r.partition) INTO taken FROM ready AS r;
  IF taken IS NULL THEN
    RETURN '{}';
  END IF;
  fresh := message_store_consumers.next_epoch($1);
  UPDATE message_store_consumers.checkpoints AS c SET member = $2, timeline = message_store_consumers.timeline(), epoch = fresh
  WHERE c.consumer = $1 AND c.partition = ANY (taken);
  RETURN taken;
END
$$;

-- Adds a member, and what is missing of its consumer. A member of the same instance is replaced,
-- and its partitions pass to the new one. wanted is how many partitions the consumer must have, or NULL.
-- Checkpoints of new categories begin after start, or after the category's last message if that is NULL. former is the consumer of
-- a process that joins again, or NULL. It may have another name now, so the name is ignored, and nothing is created if it was deleted. Such
-- a process replaces no member of its instance: that has joined after it.
-- A call without an answer can be repeated with the same member, which is also replaced.
CREATE FUNCTION message_store_consumers.join(name text, member uuid, instance text, info text, lease interval, categories text[], wanted integer, start bigint, former bigint,
  OUT consumer bigint, OUT partitions integer, OUT layout bigint, OUT changes bigint, OUT timeline text)
LANGUAGE plpgsql AS $$
DECLARE
  own bigint;    -- the consumer
  parts integer; -- its partitions
  current bigint; -- its layout
  replaced uuid[];
  inherited integer[];
BEGIN
  LOOP
    SELECT c.id, c.partitions, c.layout INTO own, parts, current
    FROM message_store_consumers.consumers AS c WHERE CASE WHEN $9 IS NULL THEN c.name = $1 ELSE c.id = $9 END FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    IF $9 IS NOT NULL THEN
      RAISE EXCEPTION 'there is no consumer %', $9 USING ERRCODE = 'MC004';
    END IF;
    INSERT INTO message_store_consumers.consumers AS c (name, categories, partitions) VALUES ($1, '{}', coalesce($7, 64))
    ON CONFLICT ON CONSTRAINT consumers_name_key DO NOTHING RETURNING c.id, c.partitions, c.layout INTO own, parts, current;
    EXIT WHEN FOUND;
  END LOOP;
  IF $7 <> parts THEN
    RAISE EXCEPTION 'consumer % has % partitions, not %', pg_catalog.to_json($1), parts, $7 USING ERRCODE = 'MC003';
  END IF;

  IF $9 IS NOT NULL AND EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.consumer = own AND m.instance = $3 AND m.id <> $2) THEN
    RAISE EXCEPTION 'instance % of consumer % has another member', pg_catalog.to_json($3), own USING ERRCODE = 'MC002';
  END IF;
  WITH deleted AS (
    DELETE FROM message_store_consumers.members AS m WHERE m.consumer = own AND m.instance = $3 OR m.id = $2 RETURNING m.id
  )
  SELECT pg_catalog.array_agg(d.id) INTO replaced FROM deleted AS d;
  INSERT INTO message_store_consumers.members (id, consumer, instance, categories, info, layout, lease)
  VALUES ($2, own, $3, $6, $4, current, $5);
  IF replaced IS NOT NULL THEN
    SELECT pg_catalog.array_agg(DISTINCT c.partition) INTO inherited
    FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.member = ANY (replaced);
    PERFORM message_store_consumers.take(own, $2, inherited, parts);
  END IF;

  -- For the others, prepare creates what is missing.
  IF EXISTS (
    SELECT FROM pg_catalog.unnest($6) AS u(category)
    WHERE NOT EXISTS (SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.category = u.category)
  ) THEN
    PERFORM message_store_consumers.refuse_elsewhere(own, $1);
  END IF;
  -- All checkpoints of a partition have the same owner.
  INSERT INTO message_store_consumers.checkpoints (consumer, category, partition, position, member, epoch, timeline)
  SELECT own, n.category, p.partition, n.position, o.member, coalesce(o.epoch, 0), o.timeline
  FROM (
    SELECT w.category, coalesce($8, message_store_consumers.end_of(w.category)) AS position
    FROM (SELECT DISTINCT u.category FROM pg_catalog.unnest($6) AS u(category)) AS w
    WHERE NOT EXISTS (
      SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.category = w.category
    )
  ) AS n
  CROSS JOIN pg_catalog.generate_series(0, parts - 1) AS p(partition)
  LEFT JOIN (
    SELECT DISTINCT ON (c.partition) c.partition, c.member, c.epoch, c.timeline
    FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own
    ORDER BY c.partition, c.epoch DESC
  ) AS o ON o.partition = p.partition;

  UPDATE message_store_consumers.consumers AS c SET categories = (
    SELECT pg_catalog.array_agg(DISTINCT u.category ORDER BY u.category) FROM pg_catalog.unnest(c.categories || $6) AS u(category)
  ) WHERE c.id = own AND NOT c.categories @> $6;
  PERFORM message_store_consumers.ring(own);
  SELECT c.id, c.partitions, c.layout, c.changes INTO consumer, partitions, layout, changes
  FROM message_store_consumers.consumers AS c WHERE c.id = own;
  timeline := message_store_consumers.timeline();
END
$$;

-- Returns the consumer's barrier, or NULL if there is none, or nobody has renewed it.
CREATE FUNCTION message_store_consumers.barrier_of(consumers message_store_consumers.consumers)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN CASE WHEN $1.barrier_end IS NULL OR $1.barrier_end > pg_catalog.clock_timestamp() THEN $1.barrier END;
END
$$;

-- Deletes members whose leases have ended, computes the member's share, and claims free
-- partitions up to it. A member that has more must release what is too much. Members that lack a
-- category which another one reads have no share, as long as there are members that read all. It raises an exception if
-- known, the number of partitions by which the member assigns messages to them, or its layout is not the consumer's, unless
-- it is NULL. The call says that no handler of the member runs that was called by an earlier layout. Until all members
-- have said so, nobody claims anything, because such a handler may have a message of any partition.
-- The arrays are checkpoints of which the member has forgotten what it knew, and the last epochs by which it knew them. They get new epochs,
-- so that statements that the member has sent before, and that are still on their way or waiting, are refused. renewed contains the ordinals of
-- those that have got one. A checkpoint that such a statement has locked is left out.
CREATE FUNCTION message_store_consumers.balance(consumer bigint, member uuid, known integer, layout bigint,
  categories text[], partitions integer[], epochs bigint[],
  OUT members integer, OUT quota integer, OUT held integer, OUT claimed integer, OUT paused boolean, OUT barrier bigint, OUT renewed integer[])
LANGUAGE plpgsql AS $$
DECLARE
  parts integer;
  old integer[];
  rest integer := 0; -- what a transaction keeps from this member
  free integer[];
  current bigint; -- the consumer's layout
  evicted boolean;
  confirmed boolean; -- the layout, for the first time
  ready boolean; -- no member has another layout
  fresh bigint; -- the epoch
BEGIN
  SELECT c.partitions, c.layout, c.paused IS NOT NULL, message_store_consumers.barrier_of(c) INTO parts, current, paused, barrier
  FROM message_store_consumers.consumers AS c WHERE c.id = $1 FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no consumer %', $1 USING ERRCODE = 'MC004';
  END IF;
  IF NOT EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.id = $2 AND m.consumer = $1) THEN
    RAISE EXCEPTION '% is not a member of consumer %', $2, $1 USING ERRCODE = 'MC002';
  END IF;
  IF $3 <> parts OR $4 <> current THEN
    RAISE EXCEPTION 'consumer % has % partitions by layout %, not % by layout %', $1, parts, current, $3, $4 USING ERRCODE = 'MC003';
  END IF;
  UPDATE message_store_consumers.members AS m SET layout = current WHERE m.id = $2 AND m.layout <> current;
  confirmed := FOUND;

  -- A clock that was set back must not keep a dead member, and must not keep anybody from judging for longer
  -- than a lease. Nobody knows how long a member was silent that has not ticked since then, or that has ticked
  -- while the clock was back and before somebody looked: when the clock is set right, its tick seems old.
  UPDATE message_store_consumers.members AS m
  SET seen = pg_catalog.clock_timestamp(), woke = pg_catalog.clock_timestamp()
  WHERE m.consumer = $1 AND (m.seen > pg_catalog.clock_timestamp() + interval '1 second' OR m.woke > m.seen + interval '1 second');
  -- Nobody is evicted for a silence that this member has shared.
  DELETE FROM message_store_consumers.members AS m
  WHERE m.consumer = $1 AND m.id <> $2 AND m.seen < pg_catalog.clock_timestamp() - m.lease AND EXISTS (
    SELECT FROM message_store_consumers.members AS me
    WHERE me.id = $2 AND me.seen > pg_catalog.clock_timestamp() - me.lease / 2
      AND (me.woke IS NULL OR me.woke < pg_catalog.clock_timestamp() - m.lease)
  );
  evicted := FOUND;

  IF pg_catalog.cardinality($6) > 0 THEN
    fresh := message_store_consumers.next_epoch($1);
    WITH locked AS MATERIALIZED (
      SELECT w.category, w.partition, w.n
      FROM ROWS FROM (pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7)) WITH ORDINALITY AS w(category, partition, epoch, n)
      JOIN message_store_consumers.checkpoints AS c ON c.consumer = $1 AND c.category = w.category AND c.partition = w.partition
      WHERE c.member = $2 AND c.epoch <= w.epoch
      FOR NO KEY UPDATE OF c SKIP LOCKED
    ), done AS (
      UPDATE message_store_consumers.checkpoints AS c SET timeline = message_store_consumers.timeline(), epoch = fresh
      FROM locked AS l WHERE c.consumer = $1 AND c.category = l.category AND c.partition = l.partition
      RETURNING l.n
    )
    SELECT pg_catalog.array_agg(d.n) INTO renewed FROM done AS d;
  END IF;

  -- After a failover, what the member knows of its checkpoints may be lost. New epochs make it
  -- forget that, and end the transactions that depend on it.
  SELECT pg_catalog.array_agg(DISTINCT c.partition) INTO old
  FROM message_store_consumers.checkpoints AS c
  WHERE c.consumer = $1 AND c.member = $2 AND c.timeline IS DISTINCT FROM message_store_consumers.timeline();
  IF old IS NOT NULL THEN
    rest := pg_catalog.cardinality(old) - pg_catalog.cardinality(message_store_consumers.take($1, $2, old, parts));
  END IF;

  WITH needed AS (
    SELECT pg_catalog.array_agg(u.category) AS categories
    FROM message_store_consumers.members AS m CROSS JOIN LATERAL pg_catalog.unnest(m.categories) AS u(category)
    WHERE m.consumer = $1
  ), owned AS (
    SELECT m.id, m.joined, m.categories @> (SELECT n.categories FROM needed AS n) AS complete, pg_catalog.count(DISTINCT c.partition) AS n
    FROM message_store_consumers.members AS m
    LEFT JOIN message_store_consumers.checkpoints AS c ON c.consumer = $1 AND c.member = m.id
    WHERE m.consumer = $1 GROUP BY m.id
  ), able AS (
    SELECT o.id, o.joined, o.n, o.complete OR NOT pg_catalog.bool_or(o.complete) OVER () AS able FROM owned AS o
  ), ranked AS (
    -- Who holds most may hold one more, so that the fewest partitions move.
    SELECT a.id, a.n, a.able, pg_catalog.count(*) OVER () AS size, pg_catalog.count(*) FILTER (WHERE a.able) OVER () AS sharing,
      pg_catalog.row_number() OVER (PARTITION BY a.able ORDER BY a.n DESC, a.joined, a.id) AS rank
    FROM able AS a
  )
  SELECT r.size, CASE WHEN r.able THEN parts / r.sharing + CASE WHEN r.rank <= parts % r.sharing THEN 1 ELSE 0 END ELSE 0 END, r.n
  INTO members, quota, held FROM ranked AS r WHERE r.id = $2;

  -- A partition is free only if no checkpoint of it has a living owner.
  SELECT pg_catalog.array_agg(f.partition) INTO free FROM (
    SELECT c.partition FROM message_store_consumers.checkpoints AS c
    LEFT JOIN message_store_consumers.members AS m ON m.id = c.member
    WHERE c.consumer = $1 GROUP BY c.partition HAVING pg_catalog.count(m.id) = 0
  ) AS f;
  ready := NOT EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.consumer = $1 AND m.layout <> current);
  claimed := 0;
  IF quota > held AND free IS NOT NULL AND ready THEN
    claimed := pg_catalog.cardinality(message_store_consumers.take($1, $2, free, quota - held));
    rest := rest + least(quota - held, pg_catalog.cardinality(free)) - claimed;
  END IF;
  IF evicted OR confirmed AND ready OR claimed > 0 AND claimed < pg_catalog.cardinality(free) THEN
    -- Who has got more may have one more now, see above.
    PERFORM message_store_consumers.ring($1);
  ELSIF rest > 0 OR claimed > 0 THEN
    -- All look again when they tick next. What nobody can get is no reason to look immediately: that would only keep
    -- the mutex from those who give back, and claim, something else.
    UPDATE message_store_consumers.consumers AS c SET changes = c.changes + 1 WHERE c.id = $1;
  END IF;
END
$$;

-- The heartbeat of a member. It also moves checkpoints, and says what has changed. moved and
-- skipped contain the ordinals of the moves that were made, and of those that were not because the checkpoint
-- is locked. The other ones are refused. No commit waits for it: a crash may lose the last ones. The consumer's name and its
-- number of partitions are also returned to who is not a member any more, or are NULL if the consumer was deleted.
CREATE FUNCTION message_store_consumers.tick(consumer bigint, member uuid, instance text, info text,
  categories text[], partitions integer[], epochs bigint[], froms bigint[], tos bigint[], anchors uuid[], anchor_times timestamptz[],
  OUT alive boolean, OUT replaced boolean, OUT changes bigint, OUT paused boolean, OUT barrier bigint, OUT suspects boolean, OUT due boolean,
  OUT timeline text, OUT moved integer[], OUT skipped integer[], OUT parts integer, OUT layout bigint, OUT name text)
LANGUAGE plpgsql AS $$
DECLARE
  unknown bigint[];
BEGIN
  PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
  UPDATE message_store_consumers.members AS m SET info = coalesce($4, m.info), seen = pg_catalog.clock_timestamp(), woke = CASE
    WHEN m.seen > pg_catalog.clock_timestamp() + interval '1 second' THEN m.seen -- after seen, so that balance knows: the clock was set back
    WHEN pg_catalog.clock_timestamp() - m.seen > m.lease / 2 THEN pg_catalog.clock_timestamp()
    ELSE m.woke
  END
  WHERE m.id = $2 AND m.consumer = $1;
  alive := FOUND;
  replaced := NOT alive AND EXISTS (
    SELECT FROM message_store_consumers.members AS m WHERE m.consumer = $1 AND m.instance = $3
  );
  timeline := message_store_consumers.timeline();
  IF NOT alive THEN
    SELECT c.partitions, c.name INTO parts, name FROM message_store_consumers.consumers AS c WHERE c.id = $1;
    RETURN;
  END IF;

  IF pg_catalog.cardinality($6) > 0 THEN
    unknown := message_store_consumers.lost($10, $11, $9);
    WITH wanted AS (
      SELECT w.* FROM ROWS FROM (pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11))
        WITH ORDINALITY AS w(category, partition, epoch, "from", "to", anchor, anchor_time, n)
    ), own AS (
      SELECT w.n FROM wanted AS w
      JOIN message_store_consumers.checkpoints AS c ON c.consumer = $1 AND c.category = w.category AND c.partition = w.partition
      WHERE c.member = $2 AND c.epoch = w.epoch AND c.timeline IS NOT DISTINCT FROM tick.timeline
    ), locked AS MATERIALIZED (
      SELECT w.* FROM wanted AS w
      JOIN message_store_consumers.checkpoints AS c ON c.consumer = $1 AND c.category = w.category AND c.partition = w.partition
      WHERE c.member = $2 AND c.epoch = w.epoch AND c.timeline IS NOT DISTINCT FROM tick.timeline
      FOR NO KEY UPDATE OF c SKIP LOCKED
    ), done AS (
      UPDATE message_store_consumers.checkpoints AS c
      SET position = l."to", anchor = l.anchor, anchor_time = l.anchor_time, moved = pg_catalog.clock_timestamp()
      FROM locked AS l
      WHERE c.consumer = $1 AND c.category = l.category AND c.partition = l.partition
        AND c.member = $2 AND c.epoch = l.epoch AND c.timeline IS NOT DISTINCT FROM tick.timeline AND c.position = l."from"
        AND (l."to" = l."from" OR l."to" > l."from" AND (c.gone IS NOT NULL OR l.n <> ALL (unknown)))
      RETURNING l.n
    )
    SELECT (SELECT pg_catalog.array_agg(d.n ORDER BY d.n) FROM done AS d),
      CASE WHEN (SELECT pg_catalog.count(*) FROM locked AS l) < pg_catalog.cardinality($6) THEN
        (SELECT pg_catalog.array_agg(o.n ORDER BY o.n) FROM own AS o WHERE o.n NOT IN (SELECT l.n FROM locked AS l))
      END
    INTO moved, skipped;
  END IF;

  SELECT c.changes, c.paused IS NOT NULL, message_store_consumers.barrier_of(c), c.partitions, c.layout, c.name,
    EXISTS (
      SELECT FROM message_store_consumers.members AS o WHERE o.consumer = $1 AND (
        o.seen < pg_catalog.clock_timestamp() - o.lease OR o.seen > pg_catalog.clock_timestamp() + interval '1 second'
      )
    ),
    EXISTS (
      SELECT FROM message_store_consumers.parked AS p
      JOIN message_store_consumers.checkpoints AS o ON o.consumer = $1 AND o.category = p.category AND o.partition = p.partition
      WHERE p.consumer = $1 AND p.due <= pg_catalog.clock_timestamp() AND o.member = $2
    )
  INTO changes, paused, barrier, parts, layout, name, suspects, due
  FROM message_store_consumers.consumers AS c WHERE c.id = $1;
END
$$;

-- Moves a checkpoint in the caller's transaction, and raises an exception if the member does not
-- have it by this epoch at this position. So it can be sent together with COMMIT, which then
-- rolls back.
CREATE FUNCTION message_store_consumers.move(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  "from" bigint, "to" bigint, anchor uuid, anchor_time timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE message_store_consumers.checkpoints AS c
  SET position = $7, anchor = $8, anchor_time = $9, moved = pg_catalog.clock_timestamp()
  WHERE c.consumer = $1 AND c.category = $2 AND c.partition = $3 AND c.member = $4 AND c.epoch = $5 AND c.position = $6 AND $7 >= $6
    AND CASE WHEN c.timeline IS DISTINCT FROM message_store_consumers.timeline() THEN false -- without a look at the messages
      WHEN c.gone IS NOT NULL THEN true ELSE $7 = $6 OR message_store_consumers.has($8, $9, $7) END;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'partition % of category % is not at position % for this member of consumer %, or the last message is not in the store', $3, pg_catalog.to_json($2), $6, $1 USING ERRCODE = 'MC001';
  END IF;
END
$$;

-- Moves checkpoints, and frees their partitions. A partition is released as a whole, with its
-- other checkpoints where they are, or not at all: if a move is refused or a checkpoint is locked.
-- released contains the ordinals of the moves that were made.
CREATE FUNCTION message_store_consumers.release(consumer bigint, member uuid,
  categories text[], partitions integer[], epochs bigint[], froms bigint[], tos bigint[], anchors uuid[], anchor_times timestamptz[],
  OUT released integer[])
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM message_store_consumers.consumers AS c WHERE c.id = $1 FOR NO KEY UPDATE;
  WITH wanted AS (
    SELECT w.* FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9))
      WITH ORDINALITY AS w(category, partition, epoch, "from", "to", anchor, anchor_time, n)
  ), locked AS MATERIALIZED (
    SELECT c.category, c.partition, c.epoch, c.position, c.timeline, c.gone FROM message_store_consumers.checkpoints AS c
    WHERE c.consumer = $1 AND c.member = $2 AND c.partition = ANY ($4)
    FOR NO KEY UPDATE SKIP LOCKED
  ), ready AS (
    SELECT w.partition FROM wanted AS w
    LEFT JOIN locked AS l ON l.category = w.category AND l.partition = w.partition AND l.epoch = w.epoch AND l.position = w."from"
      AND l.timeline IS NOT DISTINCT FROM message_store_consumers.timeline()
      AND (w."to" = w."from" OR w."to" > w."from" AND (l.gone IS NOT NULL OR message_store_consumers.has(w.anchor, w.anchor_time, w."to")))
    GROUP BY w.partition HAVING pg_catalog.count(*) = pg_catalog.count(l.partition)
    INTERSECT
    SELECT a.partition FROM (
      SELECT c.partition, pg_catalog.count(*) AS n FROM message_store_consumers.checkpoints AS c
      WHERE c.consumer = $1 AND c.member = $2 AND c.partition = ANY ($4) GROUP BY c.partition
    ) AS a
    JOIN (SELECT o.partition, pg_catalog.count(*) AS n FROM locked AS o GROUP BY o.partition) AS l ON l.partition = a.partition AND l.n = a.n
  ), freed AS (
    UPDATE message_store_consumers.checkpoints AS c
    SET position = coalesce(s."to", c.position), member = NULL,
      anchor = CASE WHEN s.n IS NULL THEN c.anchor ELSE s.anchor END,
      anchor_time = CASE WHEN s.n IS NULL THEN c.anchor_time ELSE s.anchor_time END,
      moved = CASE WHEN s."to" > c.position THEN pg_catalog.clock_timestamp() ELSE c.moved END
    FROM (
      SELECT l.category, l.partition, w.n, w."to", w.anchor, w.anchor_time FROM locked AS l
      JOIN ready AS r ON r.partition = l.partition
      LEFT JOIN wanted AS w ON w.category = l.category AND w.partition = l.partition
    ) AS s
    WHERE c.consumer = $1 AND c.category = s.category AND c.partition = s.partition
    RETURNING s.n
  )
  SELECT coalesce(pg_catalog.array_agg(f.n ORDER BY f.n) FILTER (WHERE f.n IS NOT NULL), '{}') INTO released FROM freed AS f;
  IF released <> '{}' THEN
    PERFORM message_store_consumers.ring($1);
  END IF;
END
$$;

-- Deletes the member, which frees all its partitions, and makes those moves that are not refused.
CREATE FUNCTION message_store_consumers.leave(consumer bigint, member uuid,
  categories text[], partitions integer[], epochs bigint[], froms bigint[], tos bigint[], anchors uuid[], anchor_times timestamptz[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  deleted boolean;
BEGIN
  PERFORM FROM message_store_consumers.consumers AS c WHERE c.id = $1 FOR NO KEY UPDATE;
  DELETE FROM message_store_consumers.members AS m WHERE m.id = $2 AND m.consumer = $1;
  deleted := FOUND;
  WITH wanted AS (
    SELECT w.* FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9))
      WITH ORDINALITY AS w(category, partition, epoch, "from", "to", anchor, anchor_time, n)
  ), locked AS MATERIALIZED (
    SELECT c.category, c.partition, c.epoch, c.position, c.timeline, c.gone FROM message_store_consumers.checkpoints AS c
    WHERE c.consumer = $1 AND c.member = $2
    FOR NO KEY UPDATE SKIP LOCKED
  )
  UPDATE message_store_consumers.checkpoints AS c
  SET position = coalesce(s."to", c.position), member = NULL,
    anchor = CASE WHEN s.n IS NULL THEN c.anchor ELSE s.anchor END,
    anchor_time = CASE WHEN s.n IS NULL THEN c.anchor_time ELSE s.anchor_time END,
    moved = CASE WHEN s."to" > c.position THEN pg_catalog.clock_timestamp() ELSE c.moved END
  FROM (
    SELECT l.category, l.partition, w.n, w."to", w.anchor, w.anchor_time FROM locked AS l
    LEFT JOIN wanted AS w ON w.category = l.category AND w.partition = l.partition AND w.epoch = l.epoch AND w."from" = l.position
      AND l.timeline IS NOT DISTINCT FROM message_store_consumers.timeline()
      AND (w."to" = w."from" OR w."to" > w."from" AND (l.gone IS NOT NULL OR message_store_consumers.has(w.anchor, w.anchor_time, w."to")))
  ) AS s
  WHERE c.consumer = $1 AND c.category = s.category AND c.partition = s.partition;
  IF deleted OR FOUND THEN
    PERFORM message_store_consumers.ring($1);
  END IF;
END
$$;

-- Makes the transaction durable on this server before it commits, also where commits are asynchronous:
-- members go on by what they have parked, and a server that has lost that by a crash has the same timeline.
CREATE FUNCTION message_store_consumers.durable()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_setting('synchronous_commit') = 'off' THEN
    PERFORM pg_catalog.set_config('synchronous_commit', 'local', true);
  END IF;
END
$$;

-- Locks a checkpoint against a claim to the end of the transaction, and raises an exception if
-- the member does not have it by this epoch.
CREATE FUNCTION message_store_consumers.hold(consumer bigint, category text, partition integer, member uuid, epoch bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM message_store_consumers.checkpoints AS c
  WHERE c.consumer = $1 AND c.category = $2 AND c.partition = $3 AND c.member = $4 AND c.epoch = $5
    AND c.timeline IS NOT DISTINCT FROM message_store_consumers.timeline() FOR SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'this member of consumer % does not have partition % of category %', $1, $3, pg_catalog.to_json($2) USING ERRCODE = 'MC001';
  END IF;
END
$$;

-- Locks what is parked of a key, in the order in which replay locks it: a transaction that locked the rows in another order could deadlock with it.
CREATE FUNCTION message_store_consumers.lock_key(consumer bigint, category text, partition integer, key text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM message_store_consumers.parked AS p
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.key = $4
  ORDER BY p.category, p.stream, p.position FOR NO KEY UPDATE;
END
$$;

-- Parks a stream from the position on, or adds an attempt if it is parked there, and returns whether it was not. Messages
-- after the position that were parked alone are not any more: they wait with the others. The checkpoint may pass the message
-- after this has committed.
CREATE FUNCTION message_store_consumers.park(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  key text, stream text, "position" bigint, upto bigint, global_position bigint, attempts integer, error text, due timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM message_store_consumers.durable();
  PERFORM message_store_consumers.hold($1, $2, $3, $4, $5);
  IF $9 IS NULL THEN
    PERFORM message_store_consumers.lock_key($1, $2, $3, $6);
    DELETE FROM message_store_consumers.parked AS p WHERE p.consumer = $1 AND p.category = $2 AND p.stream = $7 AND p.position > $8;
  END IF;
  INSERT INTO message_store_consumers.parked (consumer, category, partition, key, stream, position, upto, global_position, attempts, error, due)
  VALUES ($1, $2, $3, $6, $7, $8, $9, $10, $11, pg_catalog.left($12, 1000), $13)
  ON CONFLICT ON CONSTRAINT parked_pkey DO NOTHING;
  IF FOUND THEN
    RETURN true;
  END IF;
  UPDATE message_store_consumers.parked AS p
  SET upto = $9, attempts = $11, error = pg_catalog.left($12, 1000), due = $13, tried = pg_catalog.clock_timestamp()
  WHERE p.consumer = $1 AND p.category = $2 AND p.stream = $7 AND p.position = $8;
  RETURN false;
END
$$;

-- Moves a parked stream on to the next position after a message was replayed, or deletes the row
-- if that was its last. It raises an exception if the stream is not parked at the position, so it
-- can be sent together with COMMIT.
CREATE FUNCTION message_store_consumers.replayed(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  stream text, "position" bigint, next bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM message_store_consumers.durable();
  PERFORM message_store_consumers.hold($1, $2, $3, $4, $5);
  -- A transaction can contain several of these calls, in the order in which messages were handled.
  PERFORM message_store_consumers.lock_key($1, $2, $3, (
    SELECT o.key FROM message_store_consumers.parked AS o WHERE o.consumer = $1 AND o.category = $2 AND o.stream = $6 AND o.position = $7
  ));
  DELETE FROM message_store_consumers.parked AS p
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.stream = $6 AND p.position = $7 AND p.upto < $8;
  IF NOT FOUND THEN
    UPDATE message_store_consumers.parked AS p SET position = $8, attempts = 0, replays = 0, error = NULL, tried = pg_catalog.clock_timestamp()
    WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.stream = $6 AND p.position = $7 AND $8 > $7;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'stream % is not parked at position %', pg_catalog.to_json($6), $7 USING ERRCODE = 'MC001';
    END IF;
  END IF;
END
$$;

-- Adds an attempt to a parked stream after a replay has failed, which is retried after a time, or when somebody asks for it if
-- that is NULL. The key's other streams are not due any more, because they are replayed with it.
CREATE FUNCTION message_store_consumers.postpone(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  stream text, "position" bigint, attempts integer, replays integer, error text, wait interval)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  own text;     -- the key
  alone boolean; -- nothing waits for the message
BEGIN
  PERFORM message_store_consumers.hold($1, $2, $3, $4, $5);
  PERFORM message_store_consumers.lock_key($1, $2, $3, (
    SELECT o.key FROM message_store_consumers.parked AS o WHERE o.consumer = $1 AND o.category = $2 AND o.stream = $6 AND o.position = $7
  ));
  UPDATE message_store_consumers.parked AS p
  SET attempts = $8, replays = $9, error = pg_catalog.left($10, 1000), due = pg_catalog.clock_timestamp() + $11, tried = pg_catalog.clock_timestamp()
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.stream = $6 AND p.position = $7
  RETURNING p.key, p.upto IS NOT NULL INTO own, alone;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'stream % is not parked at position %', pg_catalog.to_json($6), $7 USING ERRCODE = 'MC001';
  END IF;
  IF NOT alone THEN
    UPDATE message_store_consumers.parked AS p SET due = NULL
    WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.key = own AND p.upto IS NULL AND p.due IS NOT NULL
      AND (p.stream <> $6 OR p.position <> $7);
  END IF;
END
$$;

-- Lets the consumer's parked streams, or those of them that are given, be replayed immediately, and notifies its members. It
-- returns their number.
CREATE FUNCTION message_store_consumers.replay(name text, streams text[])
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  own bigint; -- the consumer
  n bigint;
BEGIN
  SELECT c.id INTO own FROM message_store_consumers.consumers AS c WHERE c.name = $1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no consumer %', pg_catalog.to_json($1) USING ERRCODE = 'MC004';
  END IF;
  WITH locked AS MATERIALIZED (
    SELECT p.category, p.stream, p.position FROM message_store_consumers.parked AS p
    WHERE p.consumer = own AND ($2 IS NULL OR p.stream = ANY ($2))
    ORDER BY p.category, p.stream, p.position FOR NO KEY UPDATE
  )
  UPDATE message_store_consumers.parked AS p SET due = pg_catalog.clock_timestamp()
  FROM locked AS l
  WHERE p.consumer = own AND p.category = l.category AND p.stream = l.stream AND p.position = l.position;
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n > 0 THEN
    PERFORM message_store_consumers.notify_members($1);
  END IF;
  RETURN n;
END
$$;

-- Deletes what is parked of a key in the statement that moves the checkpoint to at least the last
-- replayed position: if the checkpoint stayed before it, a crash would deliver the message again.
CREATE FUNCTION message_store_consumers.unpark(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  "from" bigint, "to" bigint, anchor uuid, anchor_time timestamptz, key text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM message_store_consumers.durable();
  PERFORM message_store_consumers.move($1, $2, $3, $4, $5, $6, $7, $8, $9);
  PERFORM message_store_consumers.lock_key($1, $2, $3, $10);
  DELETE FROM message_store_consumers.parked AS p
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.key = $10 AND p.upto IS NULL;
END
$$;

-- The functions of operators. They work while members run. Epochs that rise fence what the members know, and refuse
-- transactions that are about to commit. Members see the rest when they tick, and are notified.

-- Returns the partition of a cardinal ID, as Message DB assigns it to a member of a consumer group of that size.
CREATE FUNCTION message_store_consumers.partition_of(key text, partitions integer)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
  -- The absolute value of the least bigint is none.
  SELECT pg_catalog.mod(pg_catalog.abs(('x' || pg_catalog.left(pg_catalog.md5($1), 16))::pg_catalog.bit(64)::bigint::numeric), $2)::integer
$$;

-- Locks a consumer against join, balance, release, leave and other operators to the end of the transaction, and returns its ID.
CREATE FUNCTION message_store_consumers.lock(name text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  own bigint;
BEGIN
  SELECT c.id INTO own FROM message_store_consumers.consumers AS c WHERE c.name = $1 FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no consumer %', pg_catalog.to_json($1) USING ERRCODE = 'MC004';
  END IF;
  RETURN own;
END
$$;

-- Locks checkpoints and what is parked, those of all categories if categories is NULL. Transactions that have moved or
-- parked something end first, and those that are about to do so wait.
CREATE FUNCTION message_store_consumers.lock_state(consumer bigint, categories text[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1 AND ($2 IS NULL OR c.category = ANY ($2))
  ORDER BY c.category, c.partition FOR UPDATE;
  PERFORM FROM message_store_consumers.parked AS p WHERE p.consumer = $1 AND ($2 IS NULL OR p.category = ANY ($2))
  ORDER BY p.category, p.stream, p.position FOR UPDATE;
END
$$;

-- Raises an exception if a member of the consumer has a lease that has not ended. After an outage all leases may have ended, although
-- the members are about to come back. So it also raises one if there are members, unless the caller has watched them: for
-- the time of their leases, it could reach the server, and they did not tick.
CREATE FUNCTION message_store_consumers.refuse_members(consumer bigint, name text, watched boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  living bigint;
  silent bigint;
BEGIN
  SELECT pg_catalog.count(*) FILTER (WHERE m.seen >= pg_catalog.clock_timestamp() - m.lease), pg_catalog.count(*) INTO living, silent
  FROM message_store_consumers.members AS m WHERE m.consumer = $1;
  IF living > 0 THEN
    RAISE EXCEPTION 'consumer % has % running members', pg_catalog.to_json($2), living USING ERRCODE = 'MC005';
  ELSIF silent > 0 AND NOT $3 THEN
    RAISE EXCEPTION 'consumer % has % members whose leases have ended, and which may be running', pg_catalog.to_json($2), silent USING ERRCODE = 'MC007';
  END IF;
END
$$;

-- Lets the members of a consumer handle nothing until it is resumed. why tells operators the reason; NULL resumes it.
CREATE FUNCTION message_store_consumers.pause(name text, why text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
BEGIN
  UPDATE message_store_consumers.consumers AS c SET paused = $2 WHERE c.id = own;
  PERFORM message_store_consumers.notify_members($1);
END
$$;

-- Returns the global position of the last message, or NULL if the messages are not in this database.
CREATE FUNCTION message_store_consumers.last_position()
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN coalesce((SELECT pg_catalog.max(m.global_position) FROM message_store.messages AS m), 0);
EXCEPTION WHEN undefined_table OR insufficient_privilege THEN
  RETURN NULL;
END
$$;

-- Returns the position of the category's last message, or 0.
CREATE FUNCTION message_store_consumers.end_of(category text)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN coalesce((
    SELECT m.global_position FROM message_store.messages AS m
    WHERE message_store.category(m.stream_name) >= $1 AND message_store.category(m.stream_name) <= $1
    ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1
  ), 0);
END
$$;

-- Returns the position before the first message of the category that was written at a time or later, or the category's last
-- position. It halves the range in which that message is, because there is no index by time. A time is that of the
-- transaction's begin, so times do not quite rise with positions. If no transaction took longer than slack, all
-- messages up to the position are older than the time.
CREATE FUNCTION message_store_consumers.before_time(category text, at timestamptz, slack interval)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  sought timestamp := pg_catalog.timezone('UTC', $2 - $3);
  low bigint := 0; -- a position whose message is older, or 0
  high bigint := message_store_consumers.end_of($1) + 1; -- no message from here on is older
  middle bigint;
  found_position bigint;
  found_time timestamp;
BEGIN
  WHILE low + 1 < high LOOP
    middle := low + (high - low) / 2;
    SELECT m.global_position, m.time INTO found_position, found_time FROM message_store.messages AS m
    WHERE message_store.category(m.stream_name) >= $1 AND message_store.category(m.stream_name) <= $1
      AND m.global_position >= middle AND m.global_position < high
    ORDER BY message_store.category(m.stream_name), m.global_position LIMIT 1;
    IF FOUND AND found_time < sought THEN
      low := found_position;
    ELSE
      high := middle;
    END IF;
  END LOOP;
  RETURN low;
END
$$;

-- Returns the position in the stream after its last message up to a global position. It halves the range in which that message is, because
-- there is no index by both.
CREATE FUNCTION message_store_consumers.next_of(stream text, upto bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  low bigint := -1; -- the position of such a message, or -1
  high bigint;      -- no message from here on is one
  middle bigint;
  found_position bigint;
  found_global bigint;
BEGIN
  SELECT coalesce(pg_catalog.max(m.position), -1) + 1 INTO high FROM message_store.messages AS m WHERE m.stream_name = $1;
  WHILE low + 1 < high LOOP
    middle := low + (high - low) / 2;
    SELECT m.position, m.global_position INTO found_position, found_global FROM message_store.messages AS m
    WHERE m.stream_name = $1 AND m.position >= middle AND m.position < high ORDER BY m.position LIMIT 1;
    IF FOUND AND found_global <= $2 THEN
      low := found_position;
    ELSE
      high := middle;
    END IF;
  END LOOP;
  RETURN low + 1;
END
$$;

-- Sets checkpoints of a consumer to a position, or if that is NULL before the first message that was written at a time or later, or
-- if that is NULL, too, to the ends of their categories. Messages after a lower position are handled again, those up to a
-- higher one are not. Streams that are parked because of a message that is handled again, or is left out, are not parked any
-- more, unless keep is true. Streams that remain parked are replayed from the position on, if they were replayed further.
-- It returns what has changed of each category.
CREATE FUNCTION message_store_consumers.seek(name text, categories text[], "to" bigint, at timestamptz, slack interval, keep boolean,
  OUT category text, OUT "position" bigint, OUT lowest bigint, OUT highest bigint, OUT unparked bigint)
RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
  fresh bigint; -- the epoch
  keys text[]; -- of streams that are not parked any more
  missing text;
BEGIN
  SELECT w.category INTO missing FROM pg_catalog.unnest($2) AS w(category)
  WHERE NOT EXISTS (SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.category = w.category) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'consumer % has no category %', pg_catalog.to_json($1), pg_catalog.to_json(missing) USING ERRCODE = 'MC005';
  END IF;
  PERFORM message_store_consumers.refuse_elsewhere(own, $1);
  IF $3 > message_store_consumers.last_position() THEN
    RAISE EXCEPTION 'the last message has position %', message_store_consumers.last_position() USING ERRCODE = 'MC006';
  END IF;
  PERFORM message_store_consumers.lock_state(own, $2);
  fresh := message_store_consumers.next_epoch(own);
  FOR category, lowest, highest IN
    SELECT c.category, pg_catalog.min(c.position), pg_catalog.max(c.position) FROM message_store_consumers.checkpoints AS c
    WHERE c.consumer = own AND ($2 IS NULL OR c.category = ANY ($2)) GROUP BY c.category ORDER BY c.category
  LOOP
    IF $3 IS NOT NULL THEN
      position := $3;
    ELSIF $4 IS NOT NULL THEN
      position := message_store_consumers.before_time(category, $4, $5);
    ELSE
      position := message_store_consumers.end_of(category);
    END IF;
    unparked := 0;
    IF $6 THEN
      -- The row of their stream will be before them.
      DELETE FROM message_store_consumers.parked AS p
      WHERE p.consumer = own AND p.category = seek.category AND p.upto IS NOT NULL AND p.global_position > seek.position AND EXISTS (
        SELECT FROM message_store_consumers.parked AS o
        WHERE o.consumer = own AND o.category = p.category AND o.stream = p.stream AND o.upto IS NULL
      );
    ELSE
      WITH deleted AS (
        DELETE FROM message_store_consumers.parked AS p USING message_store_consumers.checkpoints AS c
        WHERE p.consumer = own AND p.category = seek.category AND c.consumer = own AND c.category = p.category AND c.partition = p.partition
          AND p.global_position > least(c.position, seek.position)
        RETURNING p.key, p.upto
      )
      SELECT pg_catalog.count(*), pg_catalog.array_agg(DISTINCT d.key) FILTER (WHERE d.upto IS NULL) INTO unparked, keys FROM deleted AS d;
      -- One stream of a key says when all of them are replayed, and it may be among those.
      UPDATE message_store_consumers.parked AS p SET due = pg_catalog.clock_timestamp()
      WHERE p.consumer = own AND p.category = seek.category AND p.key = ANY (keys) AND p.upto IS NULL;
    END IF;
    UPDATE message_store_consumers.parked AS p
    SET position = f.first, global_position = f.global_position, attempts = 0, replays = 0, error = NULL
    FROM (
      SELECT o.stream, o.position, m.position AS first, m.global_position
      FROM message_store_consumers.parked AS o
      CROSS JOIN LATERAL (SELECT message_store_consumers.next_of(o.stream, seek.position) AS position) AS n
      CROSS JOIN LATERAL (
        SELECT l.position, l.global_position FROM message_store.messages AS l
        WHERE l.stream_name = o.stream AND l.position >= n.position AND l.position < o.position ORDER BY l.position LIMIT 1
      ) AS m
      WHERE o.consumer = own AND o.category = seek.category AND o.upto IS NULL
    ) AS f
    WHERE p.consumer = own AND p.category = seek.category AND p.stream = f.stream AND p.position = f.position;
    UPDATE message_store_consumers.checkpoints AS c
    SET position = seek.position, epoch = fresh, anchor = NULL, anchor_time = NULL, moved = pg_catalog.clock_timestamp()
    WHERE c.consumer = own AND c.category = seek.category;
    RETURN NEXT;
  END LOOP;
  PERFORM message_store_consumers.ring(own);
END
$$;

-- Leaves out the message at which a stream is parked: it is replayed from the next one on. position is where the stream must be
-- parked, or NULL. If everything is true, all messages are left out that wait for the stream's key, up to the checkpoint. It
-- returns the number of rows that have changed, which is 0 if the stream is not parked there. For a message that was parked alone, nothing
-- waits. Its row is deleted, and the checkpoint gets a new epoch: its member reads it again, and so sees that the key is not parked any more. The
-- checkpoint must have passed the message, which would be handled again otherwise: that takes until the member's next tick.
CREATE FUNCTION message_store_consumers.skip(name text, stream text, "position" bigint, everything boolean)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
  place text; -- the category
  part integer;
  waits text; -- the key
  first bigint;
  alone boolean; -- nothing waits for the message
  at bigint; -- its global position
  passed bigint; -- the checkpoint's position
  owner uuid;
  n bigint;
BEGIN
  SELECT c.category, c.partition, c.position, c.member INTO place, part, passed, owner
  FROM message_store_consumers.parked AS p
  JOIN message_store_consumers.checkpoints AS c ON c.consumer = own AND c.category = p.category AND c.partition = p.partition
  WHERE p.consumer = own AND p.stream = $2 LIMIT 1 FOR UPDATE OF c;
  -- After the lock: a replay may have moved the stream on.
  SELECT p.key, p.position, p.upto IS NOT NULL, p.global_position INTO waits, first, alone, at FROM message_store_consumers.parked AS p
  WHERE p.consumer = own AND p.category = place AND p.stream = $2 AND ($3 IS NULL OR p.position = $3) ORDER BY p.position LIMIT 1;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  IF alone THEN
    IF at > passed THEN
      IF EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.id = owner AND m.seen >= pg_catalog.clock_timestamp() - m.lease) THEN
        RAISE EXCEPTION 'the process has not stored yet that it has passed the message of stream %', pg_catalog.to_json($2) USING ERRCODE = 'MC008';
      END IF;
      RAISE EXCEPTION 'no process has stored that it has passed the message of stream %', pg_catalog.to_json($2) USING ERRCODE = 'MC005';
    END IF;
    DELETE FROM message_store_consumers.parked AS p WHERE p.consumer = own AND p.category = place AND p.stream = $2 AND p.position = first;
    UPDATE message_store_consumers.checkpoints AS c SET epoch = message_store_consumers.next_epoch(own)
    WHERE c.consumer = own AND c.category = place AND c.partition = part;
    PERFORM message_store_consumers.ring(own);
    RETURN 1;
  END IF;
  IF NOT $4 AND message_store_consumers.is_elsewhere(own) THEN
    UPDATE message_store_consumers.parked AS p
    SET position = p.position + 1, attempts = 0, replays = 0, error = NULL, due = pg_catalog.clock_timestamp(), tried = pg_catalog.clock_timestamp()
    WHERE p.consumer = own AND p.category = place AND p.stream = $2 AND p.position = first AND p.upto IS NULL AND p.attempts > 0;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n > 0 THEN
      PERFORM message_store_consumers.notify_members($1);
    END IF;
    RETURN n;
  END IF;
  PERFORM message_store_consumers.refuse_elsewhere(own, $1);
  PERFORM FROM message_store_consumers.parked AS p
  WHERE p.consumer = own AND p.category = place AND p.key = waits AND p.upto IS NULL AND ($4 OR p.stream = $2 AND p.position = first)
  ORDER BY p.category, p.stream, p.position FOR NO KEY UPDATE;
  UPDATE message_store_consumers.parked AS p
  SET position = CASE WHEN NOT $4 THEN p.position + 1 ELSE greatest(
      p.position + CASE WHEN p.attempts > 0 THEN 1 ELSE 0 END, message_store_consumers.next_of(p.stream, passed)) END,
    attempts = 0, replays = 0, error = NULL, due = pg_catalog.clock_timestamp(), tried = pg_catalog.clock_timestamp()
  WHERE p.consumer = own AND p.category = place AND p.key = waits AND p.upto IS NULL AND ($4 OR p.stream = $2 AND p.position = first
    -- All that waited may be replayed: then the position is that of a message which nobody has written yet.
    AND (p.attempts > 0 OR EXISTS (SELECT FROM message_store.messages AS s WHERE s.stream_name = p.stream AND s.position = p.position)));
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n > 0 THEN
    PERFORM message_store_consumers.notify_members($1);
  END IF;
  RETURN n;
END
$$;

-- Reports whether the category may have a message after one position and up to another one.
CREATE FUNCTION message_store_consumers.any_between(category text, after bigint, upto bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN $2 < $3 AND EXISTS (
    SELECT FROM message_store.messages AS m
    WHERE message_store.category(m.stream_name) >= $1 AND message_store.category(m.stream_name) <= $1
      AND m.global_position > $2 AND m.global_position <= $3
  );
EXCEPTION WHEN undefined_table OR insufficient_privilege THEN
  RETURN true;
END
$$;

-- Returns how many checkpoints there are of categories in which partitions have different messages handled.
CREATE FUNCTION message_store_consumers.uneven(consumer bigint, OUT checkpoints bigint, OUT categories text[])
LANGUAGE plpgsql AS $$
BEGIN
  SELECT coalesce(pg_catalog.sum(u.lacking), 0), coalesce(pg_catalog.array_agg(u.category ORDER BY u.category), '{}') INTO checkpoints, categories
  FROM (
    SELECT c.category, pg_catalog.count(*) FILTER (WHERE c.position < e.highest) AS lacking
    FROM message_store_consumers.checkpoints AS c
    JOIN (
      SELECT o.category, pg_catalog.min(o.position) AS lowest, pg_catalog.max(o.position) AS highest
      FROM message_store_consumers.checkpoints AS o WHERE o.consumer = $1 GROUP BY o.category
    ) AS e ON e.category = c.category
    WHERE c.consumer = $1 AND e.lowest < e.highest AND message_store_consumers.any_between(e.category, e.lowest, e.highest)
    GROUP BY c.category
  ) AS u;
END
$$;

-- Gives a consumer another number of partitions, and returns whether it has that. A multiple is exact: the messages of partition
-- p are those of p, p + old, p + 2 * old and so on. For any other number, all partitions must have handled the same
-- messages. To that end, it sets a barrier where the foremost checkpoint is, and the caller repeats the call until it is done.
-- The barrier ends after a time without a call. NULL, or the number that the consumer has, removes it. waiting is how many
-- checkpoints are not yet at the barrier, and unread the categories of those that no running member reads. Handlers of messages after
-- the barrier may be running nevertheless, and replays: nobody claims a partition before the last of them has returned, see balance.
CREATE FUNCTION message_store_consumers.resize(name text, partitions integer, patience interval,
  OUT done boolean, OUT barrier bigint, OUT waiting bigint, OUT unread text[])
LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
  old integer;
  since timestamptz; -- the barrier's barrier_set; NULL: nobody knows the barrier
  former bigint;     -- the barrier before the call
  fresh bigint;      -- the epoch
  uneven text[];
BEGIN
  SELECT c.partitions, message_store_consumers.barrier_of(c), CASE WHEN message_store_consumers.barrier_of(c) IS NOT NULL THEN c.barrier_set END
  INTO old, barrier, since FROM message_store_consumers.consumers AS c WHERE c.id = own;
  former := barrier;
  done := true;
  IF $2 = old OR $2 IS NULL THEN
    UPDATE message_store_consumers.consumers AS c SET barrier = NULL, barrier_set = NULL, barrier_end = NULL WHERE c.id = own AND c.barrier IS NOT NULL;
    IF FOUND THEN
      PERFORM message_store_consumers.notify_members($1);
    END IF;
    barrier := NULL;
    RETURN;
  END IF;
  IF $2 % old <> 0 THEN
    -- Partitions may have their positions by different histories of the messages, of which none may be given another one's.
    PERFORM message_store_consumers.refuse_elsewhere(own, $1);
    SELECT u.checkpoints, u.categories INTO waiting, uneven FROM message_store_consumers.uneven(own) AS u;
    -- Members that have not ticked since the barrier was committed do not know of it.
    done := waiting = 0 AND NOT EXISTS (
      SELECT FROM message_store_consumers.members AS m
      WHERE m.consumer = own AND m.seen >= pg_catalog.clock_timestamp() - m.lease AND (since IS NULL OR m.seen < since)
    );
    IF done THEN
      PERFORM message_store_consumers.lock_state(own, NULL);
      SELECT u.checkpoints, u.categories INTO waiting, uneven FROM message_store_consumers.uneven(own) AS u;
      done := waiting = 0;
    END IF;
    IF NOT done THEN
      SELECT greatest(barrier, pg_catalog.max(c.position)) INTO barrier FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own;
      UPDATE message_store_consumers.consumers AS c SET barrier = resize.barrier, barrier_end = pg_catalog.clock_timestamp() + $3,
        -- Not in the transaction that sets the barrier: until that commits, members tick and do not see it.
        barrier_set = CASE WHEN former = resize.barrier THEN coalesce(since, pg_catalog.clock_timestamp()) END
      WHERE c.id = own;
      SELECT pg_catalog.array_agg(w.category ORDER BY w.category) INTO unread FROM pg_catalog.unnest(uneven) AS w(category)
      WHERE EXISTS (
        SELECT FROM message_store_consumers.members AS m WHERE m.consumer = own AND m.seen >= pg_catalog.clock_timestamp() - m.lease
      ) AND NOT EXISTS (
        SELECT FROM message_store_consumers.members AS m
        WHERE m.consumer = own AND m.seen >= pg_catalog.clock_timestamp() - m.lease AND w.category = ANY (m.categories)
      );
      PERFORM message_store_consumers.notify_members($1); -- each time: members store their progress when they tick
      RETURN;
    END IF;
  ELSE
    PERFORM message_store_consumers.lock_state(own, NULL);
  END IF;

  fresh := message_store_consumers.next_epoch(own);
  IF $2 % old = 0 THEN
    UPDATE message_store_consumers.checkpoints AS c SET epoch = fresh WHERE c.consumer = own;
  ELSE
    -- There is no message between the lowest position and the others. One that appears there later was handled by nobody.
    UPDATE message_store_consumers.checkpoints AS c
    SET member = NULL, timeline = NULL, epoch = fresh, position = l.position, anchor = l.anchor, anchor_time = l.anchor_time
    FROM (
      SELECT DISTINCT ON (o.category) o.category, o.position, o.anchor, o.anchor_time
      FROM message_store_consumers.checkpoints AS o WHERE o.consumer = own ORDER BY o.category, o.position, o.anchor
    ) AS l
    WHERE c.consumer = own AND c.category = l.category;
  END IF;
  INSERT INTO message_store_consumers.checkpoints (consumer, partition, category, member, timeline, epoch, gone, gone_times, position, moved, anchor_time, anchor)
  SELECT own, n.partition, c.category, c.member, c.timeline, c.epoch, c.gone, c.gone_times, c.position, c.moved, c.anchor_time, c.anchor
  FROM pg_catalog.generate_series(old, $2 - 1) AS n(partition)
  JOIN message_store_consumers.checkpoints AS c ON c.consumer = own AND c.partition = n.partition % old;
  DELETE FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.partition >= $2;
  UPDATE message_store_consumers.parked AS p SET partition = message_store_consumers.partition_of(p.key, $2) WHERE p.consumer = own;
  UPDATE message_store_consumers.consumers AS c SET partitions = $2, layout = CASE WHEN $2 % old = 0 THEN c.layout ELSE fresh END,
    barrier = NULL, barrier_set = NULL, barrier_end = NULL WHERE c.id = own;
  barrier := NULL;
  PERFORM message_store_consumers.ring(own);
END
$$;

-- Creates a consumer of another name, whose checkpoints and parked streams are those of the consumer. To the end of the transaction, no
-- checkpoint of the consumer moves.
CREATE FUNCTION message_store_consumers.fork(name text, copy text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
  other bigint;
BEGIN
  INSERT INTO message_store_consumers.consumers AS c (name, categories, partitions)
  SELECT $2, o.categories, o.partitions FROM message_store_consumers.consumers AS o WHERE o.id = own
  RETURNING c.id INTO other;
  PERFORM message_store_consumers.lock_state(own, NULL);
  INSERT INTO message_store_consumers.checkpoints (consumer, partition, category, gone, gone_times, position, anchor_time, anchor)
  SELECT other, c.partition, c.category, c.gone, c.gone_times, c.position, c.anchor_time, c.anchor
  FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own;
  INSERT INTO message_store_consumers.parked (consumer, category, partition, key, stream, position, upto, global_position, attempts, replays, error, due, parked, tried)
  SELECT other, p.category, p.partition, p.key, p.stream, p.position, p.upto, p.global_position, p.attempts, p.replays, p.error, p.due, p.parked, p.tried
  FROM message_store_consumers.parked AS p WHERE p.consumer = own;
END
$$;

-- Renames a consumer. Members that run under the old name would create a new consumer if they joined again, so it raises an exception if
-- there may be any, unless force is true, see refuse_members.
CREATE FUNCTION message_store_consumers.rename(name text, renamed text, force boolean, watched boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
BEGIN
  IF NOT $3 THEN
    PERFORM message_store_consumers.refuse_members(own, $1, $4);
  END IF;
  UPDATE message_store_consumers.consumers AS c SET name = $2 WHERE c.id = own;
  PERFORM message_store_consumers.notify_members($1);
  PERFORM message_store_consumers.notify_members($2);
END
$$;

-- Deletes a consumer. It raises an exception if members may be running, unless force is true, see refuse_members.
CREATE FUNCTION message_store_consumers.remove(name text, force boolean, watched boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
BEGIN
  IF NOT $2 THEN
    PERFORM message_store_consumers.refuse_members(own, $1, $3);
  END IF;
  DELETE FROM message_store_consumers.members AS m WHERE m.consumer = own;
  PERFORM message_store_consumers.lock_state(own, NULL);
  DELETE FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own;
  DELETE FROM message_store_consumers.parked AS p WHERE p.consumer = own;
  DELETE FROM message_store_consumers.consumers AS c WHERE c.id = own;
  PERFORM message_store_consumers.notify_members($1);
END
$$;

-- The functions for consumers whose messages are in another database than their state. The two databases fail over apart. So a checkpoint
-- has the anchor of the last message up to its position, or its position is 0, and who claims it compares that with the messages.

-- Reports whether the messages of the consumer are in another database.
CREATE FUNCTION message_store_consumers.is_elsewhere(consumer bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN EXISTS (SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = $1 AND c.gone IS NOT NULL);
END
$$;

-- Raises an exception if they are.
CREATE FUNCTION message_store_consumers.refuse_elsewhere(consumer bigint, name text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF message_store_consumers.is_elsewhere($1) THEN
    RAISE EXCEPTION 'the messages of consumer % are in another database', pg_catalog.to_json($2) USING ERRCODE = 'MC005';
  END IF;
END
$$;

-- Creates what is missing of a consumer whose messages are in another database. The checkpoints of the categories begin at the positions,
-- which are those of the anchors, or 0. former is as in join.
CREATE FUNCTION message_store_consumers.prepare(name text, wanted integer, former bigint, categories text[], positions bigint[], anchors uuid[], anchor_times timestamptz[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  own bigint := $3; -- the consumer
  parts integer; -- its partitions
BEGIN
  IF own IS NULL THEN
    INSERT INTO message_store_consumers.consumers (name, categories, partitions) VALUES ($1, '{}', coalesce($2, 64))
    ON CONFLICT ON CONSTRAINT consumers_name_key DO NOTHING;
    own := message_store_consumers.lock($1);
  ELSE
    PERFORM FROM message_store_consumers.consumers AS c WHERE c.id = own FOR NO KEY UPDATE;
  END IF;
  SELECT c.partitions INTO parts FROM message_store_consumers.consumers AS c WHERE c.id = own;
  IF EXISTS (SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.gone IS NULL) THEN
    RAISE EXCEPTION 'the messages of consumer % are in the database of its state', pg_catalog.to_json($1) USING ERRCODE = 'MC005';
  END IF;
  INSERT INTO message_store_consumers.checkpoints (consumer, category, partition, position, anchor, anchor_time, gone, gone_times, member, epoch, timeline)
  SELECT own, w.category, p.partition, w.position, w.anchor, w.anchor_time, '{}', '{}', o.member, coalesce(o.epoch, 0), o.timeline
  FROM ROWS FROM (pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7)) AS w(category, position, anchor, anchor_time)
  CROSS JOIN pg_catalog.generate_series(0, parts - 1) AS p(partition)
  LEFT JOIN (
    SELECT DISTINCT ON (c.partition) c.partition, c.member, c.epoch, c.timeline
    FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own
    ORDER BY c.partition, c.epoch DESC
  ) AS o ON o.partition = p.partition
  WHERE NOT EXISTS (
    SELECT FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.category = w.category
  );
END
$$;

-- Moves a checkpoint back to the last message that the store still has of what is done with. The member does nothing by the epoch yet: it has
-- got that by a claim, or by balance after it has forgotten what it knew. lost are the first lost messages since the checkpoint was moved back the last time. What is parked because of
-- a lost message is not parked any more. The rest is replayed from what the streams have lost on: nexts are the positions in the streams
-- after their last messages up to the checkpoint.
CREATE FUNCTION message_store_consumers.rewind(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  "from" bigint, "to" bigint, anchor uuid, anchor_time timestamptz, lost uuid[], lost_times timestamptz[], streams text[], nexts bigint[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  keys text[]; -- of streams that are not parked any more
BEGIN
  UPDATE message_store_consumers.checkpoints AS c
  SET position = $7, anchor = $8, anchor_time = $9, gone = c.gone || $10, gone_times = c.gone_times || $11, moved = pg_catalog.clock_timestamp()
  WHERE c.consumer = $1 AND c.category = $2 AND c.partition = $3 AND c.epoch = $5 AND c.member = $4 AND $6 = c.position AND $7 <= $6
    AND c.gone IS NOT NULL AND NOT (c.timeline IS DISTINCT FROM message_store_consumers.timeline());
  IF NOT FOUND THEN
    RAISE EXCEPTION 'partition % of category % is not at position % for this member of consumer %', $3, pg_catalog.to_json($2), $6, $1 USING ERRCODE = 'MC001';
  END IF;
  WITH deleted AS (
    DELETE FROM message_store_consumers.parked AS p
    WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.global_position > $7 RETURNING p.key
  )
  SELECT pg_catalog.array_agg(DISTINCT d.key) INTO keys FROM deleted AS d;
  UPDATE message_store_consumers.parked AS p
  SET position = n.next, attempts = 0, replays = 0, error = NULL, due = pg_catalog.clock_timestamp()
  FROM ROWS FROM (pg_catalog.unnest($12), pg_catalog.unnest($13)) AS n(stream, next)
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.stream = n.stream AND p.upto IS NULL AND p.position > n.next;
  UPDATE message_store_consumers.parked AS p SET due = pg_catalog.clock_timestamp() -- as in seek
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.upto IS NULL AND p.key = ANY (keys);
END
$$;

-- Sets the checkpoints of a category of a consumer whose messages are in another database to the position of an anchor, or to 0. What was lost
-- before is forgotten. Streams are not parked any more that are parked because of a message that is handled again, or is left out. Others must not be
-- there, because nobody here can say how far they were replayed.
CREATE FUNCTION message_store_consumers.seek_to(name text, category text, "to" bigint, anchor uuid, anchor_time timestamptz,
  OUT lowest bigint, OUT highest bigint, OUT unparked bigint)
LANGUAGE plpgsql AS $$
DECLARE
  own bigint := message_store_consumers.lock($1);
  parked text;
BEGIN
  PERFORM message_store_consumers.lock_state(own, ARRAY[$2]);
  SELECT pg_catalog.min(c.position), pg_catalog.max(c.position) INTO lowest, highest
  FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.category = $2;
  IF lowest IS NULL THEN
    RAISE EXCEPTION 'consumer % has no category %', pg_catalog.to_json($1), pg_catalog.to_json($2) USING ERRCODE = 'MC005';
  END IF;
  DELETE FROM message_store_consumers.parked AS p USING message_store_consumers.checkpoints AS c
  WHERE p.consumer = own AND p.category = $2 AND c.consumer = own AND c.category = p.category AND c.partition = p.partition
    AND p.global_position > least(c.position, $3);
  GET DIAGNOSTICS unparked = ROW_COUNT;
  SELECT p.stream INTO parked FROM message_store_consumers.parked AS p WHERE p.consumer = own AND p.category = $2 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'stream % is parked because of a message up to position %: skip it first', pg_catalog.to_json(parked), $3 USING ERRCODE = 'MC005';
  END IF;
  UPDATE message_store_consumers.checkpoints AS c
  SET position = $3, epoch = message_store_consumers.next_epoch(own), anchor = $4, anchor_time = $5, gone = '{}', gone_times = '{}', moved = pg_catalog.clock_timestamp()
  WHERE c.consumer = own AND c.category = $2;
  PERFORM message_store_consumers.ring(own);
END
$$;
