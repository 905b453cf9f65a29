"""nocaps: its validation or test file and images of Open Images go in, one sample an image comes out, as test.

The key is the image's `id`, which submissions need; the group `domain` is in-domain, near-domain or out-domain. The
captions of nocaps' own test images are secret, so those samples have none.
"""

from collections import defaultdict
from pathlib import Path

from prefixvlm.data.sources._files import Record, Samples, field, identity, image_file, read_json, texts, with_images

SOURCE = "nocaps, https://nocaps.org"
LICENCE = "images of Open Images, CC BY 2.0; for the captions see https://nocaps.org"
TERMS = ""
SPLITS = ("test",)
WANTED = {
    "annotations": "nocaps_val_4500_captions.json: ten captions an image, from "
    "https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json (or, for a submission, "
    "https://s3.amazonaws.com/nocaps/nocaps_test_image_info.json)",
    "images": "DIR: the folder of the images, from https://s3.amazonaws.com/open-images-dataset/tar/validation.tar.gz "
    "(or test.tar.gz)",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    content = read_json(annotations, dict, WANTED["annotations"])
    captions: dict[str, list[str]] = defaultdict(list)
    for each in field(content, "annotations", list, annotations) if "annotations" in content else []:
        captions[identity(each, "image_id", annotations)].append(field(each, "caption", str, annotations))
    records = []
    for image in field(content, "images", list, annotations):
        key, path = identity(image, "id", annotations), Path(field(image, "file_name", str, annotations))
        found = image_file(images, "validation" if captions else "test", path.name)
        texts_of_it = {"captions": captions[key], "groups": texts(image, ("domain",), annotations)}
        records.append(Record(key, found, texts_of_it))
    return with_images(records, WANTED["images"])
