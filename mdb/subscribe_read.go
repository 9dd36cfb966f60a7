package mdb

import "context"

// categoryHead returns the global position of the last message of a category, or 0. No
// procedure of Message DB returns it.
func (s *procedures) categoryHead(ctx context.Context, category Category) (int64, error) {
	var head int64
	if err := s.run(ctx, directCategoryHead, number(&head), string(category)); err != nil {
		return 0, explain("find the end of category "+string(category), err)
	}
	return head, nil
}

// readCategoryAndHead reads a page and, if a filter may leave messages out, before it the
// head. In the opposite order, a message that becomes visible between the two would be
// skipped.
func (s *Store) readCategoryAndHead(ctx context.Context, category Category, c readConfig) (page []Message, head int64, err error) {
	r := &pageRead{readConfig: c, name: string(category)}
	filtered := c.size != nil || c.correlation != nil || c.condition != nil
	if !filtered || s.headless.Load() {
		page, err = s.readCategory(ctx, r)
		return page, 0, err
	}
	if c.condition != nil {
		if head, err = s.categoryHead(ctx, category); err == nil {
			page, err = s.readCategory(ctx, r)
		}
	} else {
		st, args := s.categoryRead(r)
		err = s.runBatch(ctx, nil,
			step{st: directCategoryHead, read: number(&head), args: []any{string(category)}},
			step{st: st, read: r.read, args: args})
		page = r.messages
	}
	switch {
	case err == nil:
		s.headed.Store(true)
		return page, head, nil
	case classify(err) == classSetup && !s.headed.Load():
		// A role may be allowed to call the procedures but not to read the table. Then
		// progress advances only with messages that the filter selects.
		if page, err = s.readCategory(ctx, r); err == nil {
			s.headless.Store(true)
		}
		return page, 0, err
	}
	return nil, 0, explain("get messages of category "+string(category), err)
}

// readStreamAndHead does the same for a stream, where only a condition can leave messages
// out.
func (s *Store) readStreamAndHead(ctx context.Context, stream StreamName, c readConfig) (page []Message, head int64, err error) {
	head = NoStream
	if c.condition != nil {
		if head, err = s.StreamVersion(ctx, stream); err != nil {
			return nil, 0, err
		}
	}
	page, err = s.readStream(ctx, &pageRead{readConfig: c, name: string(stream)})
	return page, head, err
}
