#include "runner/kv_cache.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/error.h"

namespace llama_rt {

KvCache::KvCache(std::shared_ptr<Backend> backend, const KvLayout& layout, int64_t capacity,
                 int64_t max_length)
    : backend_(std::move(backend)), layout_(layout), max_length_(max_length) {
  // Pages are counted before tokens are rounded up and bytes multiplied, either of which could
  // overflow.
  const int64_t most = std::numeric_limits<int64_t>::max() / layout_.page_bytes();
  if (capacity / kPageTokens >= most) {
    throw CapacityError("a cache of " + std::to_string(capacity) +
                        " tokens is larger than any memory");
  }
  const int64_t count = pages_for(capacity);
  storage_ = backend_->allocate(static_cast<size_t>(count * layout_.page_bytes()));
  references_.resize(static_cast<size_t>(count));
}

const KvCache::Sequence& KvCache::find(int sequence) const {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) {
    throw ConfigError("there is no sequence " + std::to_string(sequence) + " in the cache");
  }
  return found->second;
}

KvCache::Sequence& KvCache::find(int sequence) {
  return const_cast<Sequence&>(std::as_const(*this).find(sequence));
}

int64_t KvCache::pages_for(int64_t tokens) const {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

std::byte* KvCache::page(int32_t index) const {
  return storage_->data() + index * layout_.page_bytes();
}

int32_t KvCache::take_page() {
  int32_t page;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
  } else if (touched_ < static_cast<int64_t>(references_.size())) {
    page = static_cast<int32_t>(touched_++);
  } else {
    throw CapacityError("the KV cache is full: all " + std::to_string(references_.size()) +
                        " pages of " + std::to_string(kPageTokens) + " tokens are in use");
  }
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void KvCache::release_page(int32_t page) {
  if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

int KvCache::create() {
  sequences_.emplace(next_, Sequence{});
  return next_++;
}

int KvCache::fork(int sequence, int64_t length) {
  const Sequence& source = find(sequence);
  if (length < 0 || length > source.length) {
    throw CapacityError("cannot fork " + std::to_string(length) + " tokens of a sequence of " +
                        std::to_string(source.length));
  }
  Sequence copy;
  copy.length = length;
  const int64_t full = length / kPageTokens;
  const bool partial = length % kPageTokens != 0;
  const int32_t last = partial ? take_page() : -1;
  for (int64_t i = 0; i < full; ++i) {
    const int32_t shared = source.pages[static_cast<size_t>(i)];
    ++references_[static_cast<size_t>(shared)];
    copy.pages.push_back(shared);
  }
  if (partial) {
    backend_->copy_bytes(page(last), page(source.pages[static_cast<size_t>(full)]),
                         static_cast<size_t>(layout_.page_bytes()));
    copy.pages.push_back(last);
  }
  sequences_.emplace(next_, std::move(copy));
  return next_++;
}

void KvCache::shrink(Sequence& s, int64_t length) {
  while (static_cast<int64_t>(s.pages.size()) > pages_for(length)) {
    release_page(s.pages.back());
    s.pages.pop_back();
  }
  s.length = length;
}

void KvCache::truncate(int sequence, int64_t length) {
  Sequence& s = find(sequence);
  if (length < 0 || length > s.length) {
    throw CapacityError("cannot truncate a sequence of " + std::to_string(s.length) +
                        " tokens to " + std::to_string(length));
  }
  shrink(s, length);
}

void KvCache::release(int sequence) {
  shrink(find(sequence), 0);
  sequences_.erase(sequence);
}

// New pages, and one more where the page to be continued is shared and must be copied.
int64_t KvCache::pages_needed(const Sequence& s, int64_t tokens) const {
  const bool continues = s.length % kPageTokens != 0 && tokens > 0;
  const bool shared = continues && references_[static_cast<size_t>(s.pages.back())] > 1;
  return pages_for(s.length + tokens) - static_cast<int64_t>(s.pages.size()) + (shared ? 1 : 0);
}

void KvCache::reserve(std::span<const Reservation> reservations) {
  int64_t needed = 0;
  for (const Reservation& g : reservations) {
    const Sequence& s = find(g.sequence);
    if (s.length + g.tokens > max_length_) {
      throw CapacityError("a sequence of " + std::to_string(s.length) + " tokens cannot take " +
                          std::to_string(g.tokens) + " more: the context is " +
                          std::to_string(max_length_) + " tokens");
    }
    needed += pages_needed(s, g.tokens);
  }
  const int64_t available = static_cast<int64_t>(free_.size() + references_.size()) - touched_;
  if (needed > available) {
    throw CapacityError("the KV cache is full: the batch needs " + std::to_string(needed) +
                        " pages of " + std::to_string(kPageTokens) + " tokens, " +
                        std::to_string(available) + " are free");
  }
  for (const Reservation& g : reservations) {
    Sequence& s = find(g.sequence);
    if (s.length % kPageTokens != 0 && g.tokens > 0 &&
        references_[static_cast<size_t>(s.pages.back())] > 1) {
      const int32_t own = take_page();
      backend_->copy_bytes(page(own), page(s.pages.back()),
                           static_cast<size_t>(layout_.page_bytes()));
      release_page(s.pages.back());
      s.pages.back() = own;
    }
    while (static_cast<int64_t>(s.pages.size()) < pages_for(s.length + g.tokens)) {
      s.pages.push_back(take_page());
    }
  }
}

void KvCache::commit(std::span<const Reservation> reservations) {
  for (const Reservation& g : reservations) find(g.sequence).length += g.tokens;
}

void KvCache::roll_back(std::span<const Reservation> reservations) {
  for (const Reservation& g : reservations) {
    Sequence& s = find(g.sequence);
    shrink(s, s.length);
  }
}

}  // namespace llama_rt
