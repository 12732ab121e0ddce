// Pages of keys and values, shared by sequences: who owns which page, fork, truncate, rollback.
// What a page holds inside belongs to the backend.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace llama_rt {

class KvCache {
 public:
  // Room for `capacity` tokens in whole pages, committed as they are first written.
  KvCache(std::shared_ptr<Backend> backend, const KvLayout& layout, int64_t capacity,
          int64_t max_length);

  int create();
  // A new sequence with the first `length` tokens of `sequence`: full pages are shared, the last
  // partial one is copied. Throws CapacityError when no page is free.
  int fork(int sequence, int64_t length);
  void truncate(int sequence, int64_t length);
  void release(int sequence);
  int64_t length(int sequence) const { return find(sequence).length; }

  struct Reservation {
    int sequence;
    int64_t tokens;
  };
  // Makes room for all reservations or for none: throws CapacityError before changing anything.
  void reserve(std::span<const Reservation> reservations);
  // After reserve: the tokens were written.
  void commit(std::span<const Reservation> reservations);
  // After reserve: they were not; pages beyond the old lengths go back.
  void roll_back(std::span<const Reservation> reservations);

  std::span<const int32_t> pages(int sequence) const { return find(sequence).pages; }
  std::byte* base() const { return storage_->data(); }
  const KvLayout& layout() const { return layout_; }
  int64_t max_length() const { return max_length_; }
  int64_t pages() const { return static_cast<int64_t>(references_.size()); }
  int64_t pages_in_use() const { return touched_ - static_cast<int64_t>(free_.size()); }
  int64_t committed_bytes() const { return touched_ * layout_.page_bytes(); }
  int64_t capacity_bytes() const {
    return static_cast<int64_t>(references_.size()) * layout_.page_bytes();
  }

 private:
  struct Sequence {
    std::vector<int32_t> pages;
    int64_t length = 0;
  };

  const Sequence& find(int sequence) const;
  Sequence& find(int sequence);
  int64_t pages_for(int64_t tokens) const;
  int64_t pages_needed(const Sequence& s, int64_t tokens) const;
  int32_t take_page();
  void release_page(int32_t page);
  void shrink(Sequence& s, int64_t length);
  std::byte* page(int32_t index) const;

  std::shared_ptr<Backend> backend_;
  KvLayout layout_;
  int64_t max_length_;
  std::shared_ptr<Storage> storage_;
  std::vector<int32_t> references_;  // per page
  std::vector<int32_t> free_;        // used before, most recently freed last
  int64_t touched_ = 0;              // pages that were ever taken; the rest is untouched memory
  std::map<int, Sequence> sequences_;
  int next_ = 0;
};

}  // namespace llama_rt
