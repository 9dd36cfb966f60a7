package webtest_test

import (
	"os"

	"github.com/chromedp/cdproto/runtime"
)

// largeSize is the number of messages of a large store: a million in the nightly run.
func largeSize() int {
	if os.Getenv("MDB_TEST_LARGE") != "" {
		return 1_000_000
	}
	return 100_000
}

const fillLarge = `INSERT INTO message_store.messages (stream_name, position, type, data, metadata, time)
SELECT c.name || '-' || (n / 70), row_number() OVER (PARTITION BY c.name, n / 70 ORDER BY n) - 1,
	(ARRAY['Opened', 'Changed', 'Sent', 'Closed', 'Paid', 'Moved'])[1 + n % 6], jsonb_build_object('n', n, 'text', md5(n::text)),
	jsonb_build_object('correlationStreamName', 'order-' || (n / 70), 'causationMessageStreamName', 'order-' || (n / 70), 'causationMessagePosition', 0),
	(now() AT TIME ZONE 'utc') - ($1::integer - n) * interval '2 s'
FROM (SELECT n, (ARRAY['order', 'payment', 'shipment', 'mail', 'inventory', 'ledger', 'audit'])[1 + (n % 7)] FROM generate_series(0, $1::integer - 1) AS n) AS c(n, name) ORDER BY n`

// awaited waits for a promise.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
