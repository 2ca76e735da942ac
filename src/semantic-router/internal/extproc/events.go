package extproc

import (
	"bytes"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/openai"
)

// maxEventBytes bounds what is kept of a line that has not ended; a longer one cannot be the short usage event.
const maxEventBytes = 256 << 10

// eventStream reads the usage out of a stream of server-sent events that comes in arbitrary pieces. It keeps the part
// of a line that is still open, nothing else, and never changes what passes.
type eventStream struct {
	open  []byte
	usage *openai.Usage // of the last event that had one
}

func (s *eventStream) write(piece []byte) {
	for {
		end := bytes.IndexByte(piece, '\n')
		if end < 0 {
			if len(s.open)+len(piece) <= maxEventBytes {
				s.open = append(s.open, piece...)
			}
			return
		}
		s.line(append(s.open, piece[:end]...))
		s.open, piece = s.open[:0], piece[end+1:]
	}
}

func (s *eventStream) line(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok || !bytes.Contains(data, []byte(`"usage"`)) {
		return // most events; parsing each would double the work of streaming
	}
	if usage := openai.ParseUsage(data); usage != nil {
		s.usage = usage
	}
}
