-- The state of consumers. A consumer's row is also its mutex: join, balance, release and leave
-- lock it first, so that each of them sees what the one before it did. Everybody locks in the
-- order consumers, members, checkpoints, parked. Only move, park, replayed, postpone and unpark wait for the lock
-- of a checkpoint. The others skip checkpoints that are locked, so a transaction that hangs delays
-- neither heartbeats nor those who wait for the mutex.
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
  woke       timestamptz,                     -- when its last long silence ended
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

-- Gives at most that many of the partitions to the member, by one new epoch. A partition is left
-- out if a checkpoint of it is locked. The caller has the mutex, and knows that no living member
-- has the partitions.
CREATE FUNCTION message_store_consumers.take(consumer bigint, member uuid, partitions integer[], most integer)
RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
  taken integer[];
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
  UPDATE message_store_consumers.checkpoints AS c SET member = $2, timeline = message_store_consumers.timeline(), epoch = (
    -- Greater than every epoch before, also after a failover that has lost some of them.
    SELECT greatest(pg_catalog.max(o.epoch) + 1, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint)
    FROM message_store_consumers.checkpoints AS o WHERE o.consumer = $1
  )
  WHERE c.consumer = $1 AND c.partition = ANY (taken);
  RETURN coalesce(taken, '{}');
END
$$;

-- Adds a member, and what is missing of its consumer. A member of the same instance is replaced,
-- and its partitions pass to the new one. partitions is how many the consumer must have, or NULL.
-- Checkpoints of new categories begin after start, or after the category's last message if that is NULL.
CREATE FUNCTION message_store_consumers.join(name text, member uuid, instance text, info text, lease interval, categories text[], wanted integer, start bigint,
  OUT consumer bigint, OUT partitions integer, OUT changes bigint)
LANGUAGE plpgsql AS $$
DECLARE
  own bigint;    -- the consumer
  parts integer; -- its partitions
  replaced uuid[];
  inherited integer[];
BEGIN
  LOOP
    SELECT c.id, c.partitions INTO own, parts
    FROM message_store_consumers.consumers AS c WHERE c.name = $1 FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO message_store_consumers.consumers AS c (name, categories, partitions) VALUES ($1, '{}', coalesce($7, 64))
    ON CONFLICT ON CONSTRAINT consumers_name_key DO NOTHING RETURNING c.id, c.partitions INTO own, parts;
    EXIT WHEN FOUND;
  END LOOP;
  IF $7 <> parts THEN
    RAISE EXCEPTION 'consumer % has % partitions, not %', pg_catalog.to_json($1), parts, $7 USING ERRCODE = 'MC003';
  END IF;

  WITH deleted AS (
    DELETE FROM message_store_consumers.members AS m WHERE m.consumer = own AND m.instance = $3 RETURNING m.id
  )
  SELECT pg_catalog.array_agg(d.id) INTO replaced FROM deleted AS d;
  INSERT INTO message_store_consumers.members (id, consumer, instance, categories, info, lease)
  VALUES ($2, own, $3, $6, $4, $5);
  IF replaced IS NOT NULL THEN
    SELECT pg_catalog.array_agg(DISTINCT c.partition) INTO inherited
    FROM message_store_consumers.checkpoints AS c WHERE c.consumer = own AND c.member = ANY (replaced);
    PERFORM message_store_consumers.take(own, $2, inherited, parts);
  END IF;

  -- All checkpoints of a partition have the same owner.
  INSERT INTO message_store_consumers.checkpoints (consumer, category, partition, position, member, epoch, timeline)
  SELECT own, n.category, p.partition, n.position, o.member, coalesce(o.epoch, 0), o.timeline
  FROM (
    SELECT w.category, coalesce($8, (
      SELECT s.global_position FROM message_store.messages AS s
      -- Not an equality, with which the planner may scan the whole table by its primary key.
      WHERE message_store.category(s.stream_name) >= w.category AND message_store.category(s.stream_name) <= w.category
      ORDER BY message_store.category(s.stream_name) DESC, s.global_position DESC LIMIT 1
    ), 0) AS position
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
  SELECT c.id, c.partitions, c.changes INTO consumer, partitions, changes
  FROM message_store_consumers.consumers AS c WHERE c.id = own;
END
$$;

-- Deletes members whose leases have ended, computes the member's share, and claims free
-- partitions up to it. A member that has more must release what is too much. Members that lack a
-- category which another one reads have no share, as long as there are members that read all.
CREATE FUNCTION message_store_consumers.balance(consumer bigint, member uuid,
  OUT members integer, OUT quota integer, OUT held integer, OUT claimed integer)
LANGUAGE plpgsql AS $$
DECLARE
  parts integer;
  old integer[];
  rest integer := 0; -- what a transaction keeps from this member
  free integer[];
  evicted boolean;
BEGIN
  SELECT c.partitions INTO parts FROM message_store_consumers.consumers AS c WHERE c.id = $1 FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no consumer %', $1 USING ERRCODE = 'MC004';
  END IF;
  IF NOT EXISTS (SELECT FROM message_store_consumers.members AS m WHERE m.id = $2 AND m.consumer = $1) THEN
    RAISE EXCEPTION '% is not a member of consumer %', $2, $1 USING ERRCODE = 'MC002';
  END IF;

  -- A clock that was set back must not keep a dead member, and must not keep anybody from judging for longer
  -- than a lease. Nobody knows how long a member was silent that has not ticked since then.
  UPDATE message_store_consumers.members AS m
  SET seen = least(m.seen, pg_catalog.clock_timestamp()), woke = CASE
    WHEN m.seen > pg_catalog.clock_timestamp() + interval '1 second' THEN pg_catalog.clock_timestamp()
    WHEN m.woke IS NOT NULL THEN least(m.woke, pg_catalog.clock_timestamp())
  END
  WHERE m.consumer = $1 AND (m.seen > pg_catalog.clock_timestamp() + interval '1 second' OR m.woke > pg_catalog.clock_timestamp() + interval '1 second');
  -- Nobody is evicted for a silence that this member has shared.
  DELETE FROM message_store_consumers.members AS m
  WHERE m.consumer = $1 AND m.id <> $2 AND m.seen < pg_catalog.clock_timestamp() - m.lease AND EXISTS (
    SELECT FROM message_store_consumers.members AS me
    WHERE me.id = $2 AND me.seen > pg_catalog.clock_timestamp() - me.lease / 2
      AND (me.woke IS NULL OR me.woke < pg_catalog.clock_timestamp() - m.lease)
  );
  evicted := FOUND;

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
  claimed := 0;
  IF quota > held AND free IS NOT NULL THEN
    claimed := pg_catalog.cardinality(message_store_consumers.take($1, $2, free, quota - held));
    rest := rest + least(quota - held, pg_catalog.cardinality(free)) - claimed;
  END IF;
  IF evicted OR claimed > 0 THEN
    PERFORM message_store_consumers.ring($1);
  ELSIF rest > 0 THEN
    -- All look again when they tick next.
    UPDATE message_store_consumers.consumers AS c SET changes = c.changes + 1 WHERE c.id = $1;
  END IF;
END
$$;

-- The heartbeat of a member. It also moves checkpoints, and says what has changed. moved and
-- skipped contain the ordinals of the moves that were made, and of those that were not because the checkpoint
-- is locked. The other ones are refused. No commit waits for it: a crash may lose the last ones.
CREATE FUNCTION message_store_consumers.tick(consumer bigint, member uuid, instance text, info text,
  categories text[], partitions integer[], epochs bigint[], froms bigint[], tos bigint[], anchors uuid[], anchor_times timestamptz[],
  OUT alive boolean, OUT replaced boolean, OUT changes bigint, OUT paused boolean, OUT barrier bigint, OUT suspects boolean, OUT due boolean,
  OUT timeline text, OUT moved integer[], OUT skipped integer[])
LANGUAGE plpgsql AS $$
DECLARE
  unknown bigint[];
BEGIN
  PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
  UPDATE message_store_consumers.members AS m SET info = coalesce($4, m.info), seen = pg_catalog.clock_timestamp(),
    woke = CASE WHEN pg_catalog.clock_timestamp() - m.seen > m.lease / 2 THEN pg_catalog.clock_timestamp() ELSE m.woke END
  WHERE m.id = $2 AND m.consumer = $1;
  alive := FOUND;
  replaced := NOT alive AND EXISTS (
    SELECT FROM message_store_consumers.members AS m WHERE m.consumer = $1 AND m.instance = $3
  );
  IF NOT alive THEN
    RETURN;
  END IF;
  timeline := message_store_consumers.timeline();

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
        AND (l."to" = l."from" OR l."to" > l."from" AND l.n <> ALL (unknown))
      RETURNING l.n
    )
    SELECT (SELECT pg_catalog.array_agg(d.n ORDER BY d.n) FROM done AS d),
      CASE WHEN (SELECT pg_catalog.count(*) FROM locked AS l) < pg_catalog.cardinality($6) THEN
        (SELECT pg_catalog.array_agg(o.n ORDER BY o.n) FROM own AS o WHERE o.n NOT IN (SELECT l.n FROM locked AS l))
      END
    INTO moved, skipped;
  END IF;

  SELECT c.changes, c.paused IS NOT NULL, c.barrier,
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
  INTO changes, paused, barrier, suspects, due
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
      ELSE $7 = $6 OR message_store_consumers.has($8, $9, $7) END;
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
    SELECT c.category, c.partition, c.epoch, c.position, c.timeline FROM message_store_consumers.checkpoints AS c
    WHERE c.consumer = $1 AND c.member = $2 AND c.partition = ANY ($4)
    FOR NO KEY UPDATE SKIP LOCKED
  ), ready AS (
    SELECT w.partition FROM wanted AS w
    LEFT JOIN locked AS l ON l.category = w.category AND l.partition = w.partition AND l.epoch = w.epoch AND l.position = w."from"
      AND l.timeline IS NOT DISTINCT FROM message_store_consumers.timeline()
      AND (w."to" = w."from" OR w."to" > w."from" AND message_store_consumers.has(w.anchor, w.anchor_time, w."to"))
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
    SELECT c.category, c.partition, c.epoch, c.position, c.timeline FROM message_store_consumers.checkpoints AS c
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
      AND (w."to" = w."from" OR w."to" > w."from" AND message_store_consumers.has(w.anchor, w.anchor_time, w."to"))
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

-- Parks a stream from the position on, or adds an attempt if it is parked there, and returns whether it was not. The
-- checkpoint may pass the message after this has committed.
CREATE FUNCTION message_store_consumers.park(consumer bigint, category text, partition integer, member uuid, epoch bigint,
  key text, stream text, "position" bigint, upto bigint, global_position bigint, attempts integer, error text, due timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM message_store_consumers.durable();
  PERFORM message_store_consumers.hold($1, $2, $3, $4, $5);
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
  DELETE FROM message_store_consumers.parked AS p
  WHERE p.consumer = $1 AND p.category = $2 AND p.partition = $3 AND p.key = $10 AND p.upto IS NULL;
END
$$;
